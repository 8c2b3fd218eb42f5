// Which level the processor has, by the names of the x86-64 psABI.
#include "kernels.h"

namespace hone::kernels {

namespace v4 {
template <typename T>
Kernels<T> table();
}
namespace v3 {
template <typename T>
Kernels<T> table();
}
namespace v1 {
template <typename T>
Kernels<T> table();
}

namespace {

template <typename T>
Kernels<T> best() {
  const bool has_v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  const bool has_v4 = has_v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return has_v4 ? v4::table<T>() : has_v3 ? v3::table<T>() : v1::table<T>();
}

}  // namespace

template <typename T>
const Kernels<T>& kernels() {
  static const Kernels<T> chosen = best<T>();
  return chosen;
}

template const Kernels<float>& kernels();
template const Kernels<double>& kernels();
template const Kernels<Bf16>& kernels();

}  // namespace hone::kernels
