// Where the input of a linear layer comes from. What a norm or a gated unit gives need not be kept for the layer's backward
// pass: what they were given is in memory for theirs, and they make the same of it again, to the bit, in far less time than
// the layer takes. What that saves is in docs/performance.md.
//
// Comes after norm.cpp and swiglu.cpp.
#pragma once

#include <torch/csrc/autograd/custom_function.h>

namespace hone {

struct Origin {
  enum Kind : int64_t { kNone, kNorm, kSwiGlu };

  Kind kind;
  // What x is made of, or x itself.
  torch::autograd::variable_list from;
  double eps = 0.0;
  bool plus_one = false;

  static Origin of(const at::Tensor& x) {
    if (const auto* norm = maker<rms_norm::RmsNorm>(x)) {
      const auto saved = norm->get_saved_variables();
      const auto& data = norm->saved_data;
      return {kNorm, {saved[0].detach(), saved[1].detach()}, data.at("eps").toDouble(), data.at("plus_one").toBool()};
    }
    if (const auto* swiglu = maker<swiglu::SwiGlu>(x)) {
      return {kSwiGlu, {swiglu->get_saved_variables()[0].detach()}};
    }
    return {kNone, {x}};
  }

  // Keeps it beside `others`, which come first.
  void save(torch::autograd::AutogradContext* ctx, torch::autograd::variable_list others) const {
    ctx->saved_data["origin"] = static_cast<int64_t>(kind);
    ctx->saved_data["others"] = static_cast<int64_t>(others.size());
    ctx->saved_data["eps"] = eps;
    ctx->saved_data["plus_one"] = plus_one;
    others.insert(others.end(), from.begin(), from.end());
    ctx->save_for_backward(std::move(others));
  }

  // x, from all that was saved.
  static at::Tensor again(torch::autograd::AutogradContext* ctx, at::TensorList saved) {
    const auto from = saved.slice(ctx->saved_data["others"].toInt());
    switch (ctx->saved_data["origin"].toInt()) {
      case kNorm:
        return rms_norm::normed(from[0], from[1], ctx->saved_data["eps"].toDouble(), ctx->saved_data["plus_one"].toBool()).y;
      case kSwiGlu:
        return swiglu::gated(from[0]);
      default:
        return from[0];
    }
  }

 private:
  // What the node that made x keeps, if it is of this kind.
  template <typename Op>
  static const torch::autograd::AutogradContext* maker(const at::Tensor& x) {
    const auto* node = dynamic_cast<const torch::autograd::CppNode<Op>*>(x.grad_fn().get());
    return node == nullptr ? nullptr : &node->ctx_;
  }
};

}  // namespace hone
