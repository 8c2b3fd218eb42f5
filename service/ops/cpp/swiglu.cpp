// silu(gate) up as one autograd node on the CPU (Shazeer 2020, arXiv:2002.05202). Gate and up lie side by side, as their
// stacked projection gives them, and are all that is saved.
#include <torch/csrc/autograd/custom_function.h>

#include "guard.h"
#include "rows.h"

namespace swiglu {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// x [T, 2 I] -> [T, I]
at::Tensor gated(const at::Tensor& x) {
  const auto rows = x.size(0), width = x.size(1) / 2;
  auto y = at::empty({rows, width}, x.options());
  hone::with_type(x, [&](auto type) {
    using T = decltype(type);
    hone::for_rows(rows, width, [&](int64_t first, int64_t count) {
      hone::kernels::kernels<T>().swiglu(
          hone::values<T>(x) + first * 2 * width, hone::values<T>(y) + first * width, count, width);
    });
  });
  return y;
}

struct SwiGlu : public torch::autograd::Function<SwiGlu> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& input) {
    const auto x = input.contiguous();
    ctx->save_for_backward({x});
    return gated(x);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto x = ctx->get_saved_variables()[0];
    const auto dy = grads[0].contiguous();
    const auto rows = x.size(0), width = x.size(1) / 2;
    auto dx = at::empty_like(x);
    hone::with_type(x, [&](auto type) {
      using T = decltype(type);
      hone::for_rows(rows, width, [&](int64_t first, int64_t count) {
        hone::kernels::kernels<T>().swiglu_backward(
            hone::values<T>(dy) + first * width, hone::values<T>(x) + first * 2 * width,
            hone::values<T>(dx) + first * 2 * width, count, width);
      });
    });
    return {dx};
  }
};

}  // namespace
}  // namespace swiglu

extern "C" char* hone_swiglu(const at::Tensor* x, at::Tensor** out) {
  return hone::guarded([&] {
    TORCH_CHECK(x->dim() == 2 && x->size(1) % 2 == 0 && x->size(1) > 0,
        "swiglu: ", x->sizes(), " is no gate and up projection side by side");
    *out = hone::give(swiglu::SwiGlu::apply(*x));
  });
}
