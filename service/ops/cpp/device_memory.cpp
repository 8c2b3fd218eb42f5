// Memory that LibTorch's allocator of a GPU has given out, and what it holds.
#include <c10/core/CachingDeviceAllocator.h>

#include "guard.h"

// Writes nothing while the allocator has not begun.
extern "C" char* hone_device_memory(int64_t device, uint64_t* allocated, uint64_t* reserved) {
  return hone::guarded([&] {
    auto* allocator = c10::getDeviceAllocator(c10::DeviceType::CUDA);
    if (!allocator->initialized()) return;
    const auto stats = allocator->getDeviceStats(static_cast<c10::DeviceIndex>(device));
    constexpr auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    *allocated = static_cast<uint64_t>(stats.allocated_bytes[all].current);
    *reserved = static_cast<uint64_t>(stats.reserved_bytes[all].current);
  });
}
