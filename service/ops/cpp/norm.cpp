// RMSNorm as one autograd node on the CPU: statistics in float32 (Zhang & Sennrich 2019,
// arXiv:1910.07467). Saved are x and a number for each row.
#include <torch/csrc/autograd/custom_function.h>

#include "guard.h"
#include "rows.h"

namespace rms_norm {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// The result, and what each row was multiplied by.
struct Normed {
  at::Tensor y, scales;
};

Normed normed(const at::Tensor& x, const at::Tensor& weight, double eps, bool plus_one) {
  const auto width = x.size(-1), rows = x.numel() / width;
  auto y = at::empty_like(x);
  auto scales = at::empty({rows}, x.options().dtype(hone::compute_type(x.scalar_type())));
  hone::with_type(x, [&](auto type) {
    using T = decltype(type);
    using W = typename hone::kernels::Wide<T>::Type;
    hone::for_rows(rows, width, [&](int64_t first, int64_t count) {
      hone::kernels::kernels<T>().norm(
          hone::values<T>(x) + first * width, hone::values<T>(weight), hone::values<T>(y) + first * width,
          hone::values<W>(scales) + first, count, width, eps, plus_one);
    });
  });
  return {y, scales};
}

struct RmsNorm : public torch::autograd::Function<RmsNorm> {
  static at::Tensor forward(
      AutogradContext* ctx, const at::Tensor& input, const at::Tensor& weight, double eps, bool plus_one) {
    const auto x = input.contiguous();
    const auto [y, scales] = normed(x, weight, eps, plus_one);
    ctx->save_for_backward({x, weight, scales});
    ctx->saved_data["eps"] = eps;
    ctx->saved_data["plus_one"] = plus_one;
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const auto &x = saved[0], &weight = saved[1], &scales = saved[2];
    const bool plus_one = ctx->saved_data["plus_one"].toBool();
    const auto dy = grads[0].contiguous();
    const auto width = x.size(-1), rows = x.numel() / width;
    auto dx = at::empty_like(x);
    hone::with_type(x, [&](auto type) {
      using T = decltype(type);
      using W = typename hone::kernels::Wide<T>::Type;
      hone::for_rows(rows, width, [&](int64_t first, int64_t count) {
        hone::kernels::kernels<T>().norm_backward(
            hone::values<T>(dy) + first * width, hone::values<T>(x) + first * width, hone::values<T>(weight),
            hone::values<W>(scales) + first, hone::values<T>(dx) + first * width, count, width, plus_one);
      });
    });
    at::Tensor dw;
    if (ctx->needs_input_grad(1)) {
      const auto wide = scales.scalar_type();
      const auto normed = x.view({rows, width}).to(wide) * scales.unsqueeze(1);
      dw = (dy.view({rows, width}).to(wide) * normed).sum(0).to(weight.scalar_type());
    }
    return {dx, dw, at::Tensor(), at::Tensor()};
  }
};

}  // namespace
}  // namespace rms_norm

extern "C" char* hone_rms_norm(
    const at::Tensor* x, const at::Tensor* weight, double eps, bool plus_one, at::Tensor** out) {
  return hone::guarded([&] {
    TORCH_CHECK(x->dim() > 0 && weight->dim() == 1 && weight->size(0) == x->size(-1) &&
            weight->scalar_type() == x->scalar_type() && weight->is_contiguous(),
        "rms_norm: x ", x->sizes(), " does not fit weight ", weight->sizes());
    *out = hone::give(rms_norm::RmsNorm::apply(*x, *weight, eps, plus_one));
  });
}
