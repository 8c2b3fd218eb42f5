// Matrix products of the layers.
//
// LibTorch multiplies float32 with MKL, which holds itself back on processors that are not Intel's; there oneDNN, which is
// in LibTorch too and multiplies its bfloat16, is a fifth faster (docs/performance.md). The choice follows from the
// processor alone, so that a run is repeated to the bit on its machine.
#pragma once

#include <ATen/ATen.h>

namespace at::native {
// Exported by libtorch_cpu, in no header of it: result = alpha a b + beta result.
void mkldnn_matmul(const Tensor& a, const Tensor& b, const Tensor& result, float beta, float alpha);
}  // namespace at::native

namespace hone {

// A product of fewer multiplications is not worth a oneDNN primitive: one is compiled and kept for every size of the three,
// and no two micro-batches are of one size.
constexpr int64_t kWorthIt = 1 << 26;

// Whether x is a matrix, or the transpose of one, with nothing between its rows; others would be copied on the way.
inline bool is_dense(const at::Tensor& x) {
  return (x.stride(1) == 1 && x.stride(0) == x.size(1)) || (x.stride(0) == 1 && x.stride(1) == x.size(0));
}

inline bool takes_onednn(const at::Tensor& a, const at::Tensor& b) {
  static const bool is_foreign = !__builtin_cpu_is("intel") && __builtin_cpu_supports("avx2");
  const auto fits = [](const at::Tensor& x) { return x.is_cpu() && x.scalar_type() == at::kFloat && is_dense(x); };
  return is_foreign && fits(a) && fits(b) && a.size(0) * a.size(1) * b.size(1) >= kWorthIt;
}

// out = a b, in place of what out holds.
inline void mm_into(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b) {
  if (takes_onednn(a, b) && out.is_contiguous()) {
    at::native::mkldnn_matmul(a, b, out, 0.0f, 1.0f);
  } else {
    auto result = out;
    at::mm_out(result, a, b);
  }
}

// a b
inline at::Tensor mm(const at::Tensor& a, const at::Tensor& b) {
  if (!takes_onednn(a, b)) {
    return at::mm(a, b);
  }
  auto out = at::empty({a.size(0), b.size(1)}, a.options());
  at::native::mkldnn_matmul(a, b, out, 0.0f, 1.0f);
  return out;
}

// a b + bias, if there is one.
inline at::Tensor mm_plus(const std::optional<at::Tensor>& bias, const at::Tensor& a, const at::Tensor& b) {
  if (!bias) {
    return hone::mm(a, b);
  }
  // In half precision the sum is to be rounded once.
  return takes_onednn(a, b) ? hone::mm(a, b).add_(*bias) : at::addmm(*bias, a, b);
}

// out += a b
inline void add_mm(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b) {
  if (takes_onednn(a, b) && out.is_contiguous()) {
    at::native::mkldnn_matmul(a, b, out, 1.0f, 1.0f);
  } else {
    out.addmm_(a, b);
  }
}

}  // namespace hone
