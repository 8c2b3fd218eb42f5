// Memory of tensors on the host.
//
// Micro-batches are of ever other sizes. In glibc's heap, where small things that live long lie between the tensors, memory
// ends up in pieces, and more and more is fetched (docs/performance.md has figures). So tensors that are not
// small have a heap of their own: the smallest free stretch that is large enough is taken, and free neighbours are one
// stretch. What the heap has from the system it keeps for the next tensor, as LibTorch's allocator of a GPU does, until it
// is told to give it back or the system refuses more.
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>
#include <malloc.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <set>
#include <unordered_map>

#include "guard.h"

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kHugePage = 2 << 20;
// Smaller tensors are glibc's.
constexpr size_t kSmallest = 16 * kPage;
// The least that is asked of the system at once.
constexpr size_t kGrowth = 4 * kHugePage;

constexpr size_t rounded_up(size_t size, size_t unit) {
  return (size + unit - 1) / unit * unit;
}

class HostHeap {
 public:
  static HostHeap& instance() {
    // Tensors of other statics may outlive it, so that it is never destroyed.
    static auto* heap = new HostHeap;
    return *heap;
  }

  // Null where the system refuses.
  void* take(size_t wanted) {
    const size_t size = rounded_up(wanted, kPage);
    const std::lock_guard<std::mutex> lock(mutex_);
    if (by_size_.lower_bound({size, nullptr}) == by_size_.end() && !grow(size)) {
      release();
      if (!grow(size)) return nullptr;
    }
    const auto [found, start] = *by_size_.lower_bound({size, nullptr});
    remove(start, found);
    if (found > size) add(start + size, found - size);
    used_.emplace(start, size);
    return start;
  }

  // Whether it was taken here.
  bool give(void* start) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto used = used_.find(start);
    if (used == used_.end()) return false;
    put(static_cast<char*>(start), used->second);
    used_.erase(used);
    return true;
  }

  void give_back_to_system() {
    const std::lock_guard<std::mutex> lock(mutex_);
    release();
  }

 private:
  bool grow(size_t size) {
    const size_t length = std::max(rounded_up(size, kHugePage), kGrowth);
    void* start = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) return false;
    // Fewer page faults, where the system has such pages to give.
    madvise(start, length, MADV_HUGEPAGE);
    put(static_cast<char*>(start), length);
    return true;
  }

  void release() {
    for (const auto& [start, size] : by_place_) {
      munmap(start, size);
    }
    by_place_.clear();
    by_size_.clear();
  }

  // Joins a stretch that became free to its free neighbours.
  void put(char* start, size_t size) {
    const auto after = by_place_.lower_bound(start);
    if (after != by_place_.begin()) {
      const auto [before_start, before_size] = *std::prev(after);
      if (before_start + before_size == start) {
        remove(before_start, before_size);
        start = before_start;
        size += before_size;
      }
    }
    if (after != by_place_.end() && start + size == after->first) {
      const auto after_size = after->second;
      remove(after->first, after_size);
      size += after_size;
    }
    add(start, size);
  }

  void add(char* start, size_t size) {
    by_place_.emplace(start, size);
    by_size_.emplace(size, start);
  }

  void remove(char* start, size_t size) {
    by_place_.erase(start);
    by_size_.erase({size, start});
  }

  std::mutex mutex_;
  // Free stretches.
  std::map<char*, size_t> by_place_;
  std::set<std::pair<size_t, char*>> by_size_;
  std::unordered_map<void*, size_t> used_;
};

void give(void* start) {
  if (!HostHeap::instance().give(start)) c10::free_cpu(start);
}

struct HostAllocator : public c10::Allocator {
  c10::DataPtr allocate(size_t size) override {
    void* start = size < kSmallest ? nullptr : HostHeap::instance().take(size);
    // LibTorch's own says what it was refused in the words that others know.
    if (start == nullptr) start = c10::alloc_cpu(size);
    return {start, start, &give, c10::Device(c10::kCPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override {
    return &give;
  }

  void copy_data(void* to, const void* from, size_t size) const override {
    default_copy_data(to, from, size);
  }
};

// Before main: nothing was allocated yet, and no thread reads the environment.
__attribute__((constructor)) void prepare() {
  static HostAllocator allocator;
  c10::SetCPUAllocator(&allocator);
  // oneDNN compiles a primitive for every size of a product, a third of a megabyte each. It would keep 1024 of them, and so
  // would LibTorch on top of it; a micro-batch takes about forty.
  for (const char* kept : {"ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"}) {
    setenv(kept, "128", 0);
  }
}

}  // namespace

extern "C" void hone_give_memory_back() {
  HostHeap::instance().give_back_to_system();
  malloc_trim(0);
}
