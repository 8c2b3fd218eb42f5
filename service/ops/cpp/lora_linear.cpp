// A frozen linear layer, or several that share their input, with low-rank adapters: one autograd node.
//
//   y = x W^T + bias,   y[:, rows of part i] += s * (drop(x) A_i^T) B_i^T
//
// W [out, in] stacks the parts (q, k, v), A [R, in] stacks the adapters' down projections, so that the input is read
// once for W and once for A. The scale goes into the [T, R] side. Saved for the backward pass: x, which the stack
// shares, the [T, R] intermediate, and the dropout mask as bytes. W gets no gradient. A and B are float32 masters, cast
// to the type of x inside. Paper: Hu et al. 2021, arXiv:2106.09685.
#include <ATen/Context.h>
#include <torch/csrc/autograd/custom_function.h>

#include <vector>

#include "guard.h"

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Bytes of 1 (keep) and 0, from a generator of its own: neither draws from the global one nor depends on it.
at::Tensor dropout_mask(const at::Tensor& x, double probability, int64_t seed) {
  auto generator = at::globalContext().defaultGenerator(x.device()).clone();
  generator.set_current_seed(static_cast<uint64_t>(seed));
  return at::empty_like(x, x.options().dtype(at::kByte)).bernoulli_(1.0 - probability, generator);
}

struct LoraLinear : public torch::autograd::Function<LoraLinear> {
  static at::Tensor forward(
      AutogradContext* ctx,
      const at::Tensor& x,
      const at::Tensor& weight,
      const std::optional<at::Tensor>& bias,
      const at::Tensor& a,
      at::TensorList b,
      const std::vector<int64_t>& rows,
      double scale,
      double dropout,
      int64_t seed) {
    const auto type = x.scalar_type();
    auto y = bias ? at::addmm(*bias, x, weight.t()) : at::mm(x, weight.t());
    at::Tensor mask;
    auto input = x;
    if (dropout > 0.0) {
      mask = dropout_mask(x, dropout, seed);
      input = x * mask;
      scale /= 1.0 - dropout;
    }
    auto h = at::mm(input, a.to(type).t()).mul_(scale);
    int64_t start = 0;
    for (size_t i = 0; i < b.size(); ++i) {
      const auto rank = b[i].size(1);
      y.narrow(1, rows[i], b[i].size(0)).addmm_(h.narrow(1, start, rank), b[i].to(type).t());
      start += rank;
    }
    TORCH_CHECK(start == a.size(0), "lora_linear: A has ", a.size(0), " rows, the ranks of B add up to ", start);
    variable_list saved{x, weight, a, h, mask};
    saved.insert(saved.end(), b.begin(), b.end());
    ctx->save_for_backward(saved);
    ctx->saved_data["rows"] = rows;
    ctx->saved_data["scale"] = scale;
    ctx->saved_data["has_bias"] = bias.has_value();
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const auto &x = saved[0], &weight = saved[1], &a = saved[2], &h = saved[3], &mask = saved[4];
    const auto rows = ctx->saved_data["rows"].toIntVector();
    const auto scale = ctx->saved_data["scale"].toDouble();
    const auto type = x.scalar_type();
    const auto dy = grads[0].contiguous();
    const auto num_parts = saved.size() - 5;

    variable_list db(num_parts);
    auto dh = at::empty_like(h);
    int64_t start = 0;
    for (size_t i = 0; i < num_parts; ++i) {
      const auto& b = saved[5 + i];
      const auto part = dy.narrow(1, rows[i], b.size(0));
      dh.narrow(1, start, b.size(1)).copy_(at::mm(part, b.to(type)));
      db[i] = at::mm(part.t(), h.narrow(1, start, b.size(1))).to(b.scalar_type());
      start += b.size(1);
    }
    dh.mul_(scale);
    auto da = at::mm(dh.t(), mask.defined() ? x * mask : x).to(a.scalar_type());

    at::Tensor dx;
    if (ctx->needs_input_grad(0)) {
      dx = at::mm(dy, weight);
      if (mask.defined()) {
        dx.addcmul_(at::mm(dh, a.to(type)), mask.to(type));
      } else {
        dx.addmm_(dh, a.to(type));
      }
    }
    // x, weight, bias, a, b..., rows, scale, dropout, seed
    variable_list result{dx, at::Tensor(), at::Tensor(), da};
    result.insert(result.end(), db.begin(), db.end());
    result.resize(result.size() + 4);
    return result;
  }
};

}  // namespace

extern "C" char* hone_lora_linear(
    const at::Tensor* x,
    const at::Tensor* weight,
    const at::Tensor* bias,
    const at::Tensor* a,
    const at::Tensor* const* b,
    const int64_t* rows,
    size_t num_parts,
    double scale,
    double dropout,
    int64_t seed,
    at::Tensor** out) {
  return hone::guarded([&] {
    std::vector<at::Tensor> parts;
    for (size_t i = 0; i < num_parts; ++i) {
      parts.push_back(*b[i]);
    }
    std::vector<int64_t> starts(rows, rows + num_parts);
    *out = hone::give(LoraLinear::apply(
        *x, *weight, hone::optional(bias), *a, at::TensorList(parts), starts, scale, dropout, seed));
  });
}
