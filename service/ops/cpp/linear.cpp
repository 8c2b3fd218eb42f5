// y = x W^T + bias by the same products as in lora_linear.cpp, so that a layer with an adapter that changes nothing gives
// what the layer gives without it, to the bit: a fresh policy has the log-probabilities of its reference.
#include <torch/csrc/autograd/custom_function.h>

#include "guard.h"
#include "matmul.h"
#include "origin.h"

namespace linear {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Linear : public torch::autograd::Function<Linear> {
  static at::Tensor forward(
      AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias) {
    const auto origin = weight.requires_grad() ? hone::Origin::of(x) : hone::Origin{hone::Origin::kNone, {at::Tensor()}};
    origin.save(ctx, {weight});
    ctx->saved_data["has_bias"] = bias.has_value();
    return hone::mm_plus(bias, x, weight.t());
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const auto& weight = saved[0];
    const auto dy = grads[0].contiguous();
    // What is not there has no place among the inputs.
    const bool wants_bias = ctx->saved_data["has_bias"].toBool() && ctx->needs_input_grad(2);
    return {
        ctx->needs_input_grad(0) ? hone::mm(dy, weight) : at::Tensor(),
        ctx->needs_input_grad(1) ? hone::mm(dy.t(), hone::Origin::again(ctx, saved)) : at::Tensor(),
        wants_bias ? dy.sum(0) : at::Tensor()};
  }
};

}  // namespace
}  // namespace linear

extern "C" char* hone_linear(const at::Tensor* x, const at::Tensor* weight, const at::Tensor* bias, at::Tensor** out) {
  return hone::guarded([&] {
    TORCH_CHECK(x->dim() == 2 && weight->dim() == 2 && x->size(1) == weight->size(1),
        "linear: x ", x->sizes(), " does not fit weight ", weight->sizes());
    *out = hone::give(linear::Linear::apply(*x, *weight, hone::optional(bias)));
  });
}
