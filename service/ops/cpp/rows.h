// From tensors to the loops of kernels/: which types have them, and how rows are shared out to threads.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <type_traits>

#include "kernels/kernels.h"

#ifndef INTRA_OP_PARALLEL
#error "without -fopenmp at::parallel_for calls its body once, on the calling thread"
#endif

namespace hone {

// Calls `body(T{})` with the loops' name for the type of x.
template <typename Body>
void with_type(const at::Tensor& x, Body body) {
  switch (x.scalar_type()) {
    case at::kFloat:
      return body(float{});
    case at::kDouble:
      return body(double{});
    case at::kBFloat16:
      return body(kernels::Bf16{});
    default:
      TORCH_CHECK(false, "no loops for tensors of type ", x.scalar_type());
  }
}

// Values of a tensor as the loops take them.
template <typename T>
T* values(const at::Tensor& x) {
  return static_cast<T*>(x.data_ptr());
}

// Calls `body(first row, rows)` on several threads; a row has `width` values.
template <typename Body>
void for_rows(int64_t rows, int64_t width, Body body) {
  constexpr int64_t kValuesOfThread = 1 << 15;
  at::parallel_for(0, rows, std::max<int64_t>(1, kValuesOfThread / width),
      [&](int64_t begin, int64_t end) { body(begin, end - begin); });
}

}  // namespace hone
