// Which operators of LibTorch ran, how often, and how long each took itself, without those it called: for finding what a
// step spends its time on, and what in it waits for the device.
#include <ATen/record_function.h>

#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <sstream>
#include <string>

#include "guard.h"

namespace op_times {
namespace {

using Clock = std::chrono::steady_clock;

struct Total {
  int64_t calls = 0, nanos = 0;
};

std::mutex mutex;
std::map<std::string, Total> totals;
at::CallbackHandle handle = at::INVALID_CALLBACK_HANDLE;

// An operator that runs on this thread, and the one that called it.
struct Running : at::ObserverContext {
  Running* caller;
  Clock::time_point start = Clock::now();
  int64_t nanos_of_called = 0;

  explicit Running(Running* caller) : caller(caller) {}
};

thread_local Running* innermost = nullptr;

std::unique_ptr<at::ObserverContext> begin(const at::RecordFunction&) {
  auto running = std::make_unique<Running>(innermost);
  innermost = running.get();
  return running;
}

void end(const at::RecordFunction& function, at::ObserverContext* context) {
  auto* running = static_cast<Running*>(context);
  const auto nanos = std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - running->start).count();
  innermost = running->caller;
  if (innermost != nullptr) {
    innermost->nanos_of_called += nanos;
  }
  const std::lock_guard<std::mutex> lock(mutex);
  auto& total = totals[function.name()];
  total.calls += 1;
  total.nanos += nanos - running->nanos_of_called;
}

}  // namespace
}  // namespace op_times

// Begins to count on this thread, and on those that work on its backward passes.
extern "C" char* hone_op_times_begin() {
  return hone::guarded([&] {
    TORCH_CHECK(op_times::handle == at::INVALID_CALLBACK_HANDLE, "op_times: operators are being counted already");
    op_times::totals.clear();
    op_times::handle = at::addThreadLocalCallback(
        at::RecordFunctionCallback(op_times::begin, op_times::end)
            .scopes({at::RecordScope::FUNCTION, at::RecordScope::BACKWARD_FUNCTION}));
  });
}

// Ends it; a line for each operator: name, calls, nanoseconds, between tabs.
extern "C" char* hone_op_times_end(char** text) {
  return hone::guarded([&] {
    at::removeCallback(op_times::handle);
    op_times::handle = at::INVALID_CALLBACK_HANDLE;
    const std::lock_guard<std::mutex> lock(op_times::mutex);
    std::ostringstream out;
    for (const auto& [name, total] : op_times::totals) {
      out << name << '\t' << total.calls << '\t' << total.nanos << '\n';
    }
    *text = strdup(out.str().c_str());
  });
}
