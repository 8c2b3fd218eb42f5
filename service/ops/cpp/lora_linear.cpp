// A frozen linear layer, or several that share their input, with low-rank adapters: one autograd node.
//
//   y = x W^T + bias,   y[:, rows of part i] += s_i * (drop(x) A_i^T) B_i^T
//
// W [out, in] stacks the parts (q, k, v), A [R, in] stacks the adapters' down projections, so that the input is read
// once for W and once for A. The scales go into the [T, R] side. Saved for the backward pass: x, which the stack
// shares, or what it is made of, the [T, R] intermediate, and the dropout mask as bytes. W gets no gradient, nor does a B
// that wants none. A and B are float32 masters, cast to the type of x inside. Paper: Hu et al. 2021, arXiv:2106.09685.
#include <ATen/Context.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <vector>

#include "guard.h"
#include "matmul.h"
#include "origin.h"

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Bytes of 1 (keep) and 0, from a generator of its own: neither draws from the global one nor depends on it.
at::Tensor dropout_mask(const at::Tensor& x, double probability, int64_t seed) {
  auto generator = at::globalContext().defaultGenerator(x.device()).clone();
  generator.set_current_seed(static_cast<uint64_t>(seed));
  return at::empty_like(x, x.options().dtype(at::kByte)).bernoulli_(1.0 - probability, generator);
}

// What stays of x, scaled up so that its mean stays: x * mask / (1 - probability).
at::Tensor dropped(const at::Tensor& x, double probability, int64_t seed) {
  return x * dropout_mask(x, probability, seed).to(x.scalar_type()).mul_(1.0 / (1.0 - probability));
}

// Multiplies the columns of h [T, R] that belong to each part by its scale; all at once where the scales are alike.
void scale_parts(const at::Tensor& h, at::TensorList b, const std::vector<double>& scales) {
  if (std::equal(scales.begin() + 1, scales.end(), scales.begin())) {
    h.mul_(scales[0]);
    return;
  }
  int64_t start = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    h.narrow(1, start, b[i].size(1)).mul_(scales[i]);
    start += b[i].size(1);
  }
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
      std::vector<double> scales,
      double dropout,
      int64_t seed) {
    int64_t ranks = 0;
    for (const auto& part : b) {
      ranks += part.size(1);
    }
    TORCH_CHECK(ranks == a.size(0), "lora_linear: A has ", a.size(0), " rows, the ranks of B add up to ", ranks);
    const auto type = x.scalar_type();
    auto y = hone::mm_plus(bias, x, weight.t());
    at::Tensor mask;
    auto input = x;
    if (dropout > 0.0) {
      mask = dropout_mask(x, dropout, seed);
      input = x * mask;
      for (auto& scale : scales) {
        scale /= 1.0 - dropout;
      }
    }
    auto h = hone::mm(input, a.to(type).t());
    scale_parts(h, b, scales);
    int64_t start = 0;
    for (size_t i = 0; i < b.size(); ++i) {
      const auto rank = b[i].size(1);
      hone::add_mm(y.narrow(1, rows[i], b[i].size(0)), h.narrow(1, start, rank), b[i].to(type).t());
      start += rank;
    }
    variable_list saved{weight, a, h, mask};
    saved.insert(saved.end(), b.begin(), b.end());
    hone::Origin::of(x).save(ctx, std::move(saved));
    ctx->saved_data["rows"] = rows;
    ctx->saved_data["scales"] = scales;
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const auto x = hone::Origin::again(ctx, saved);
    const auto &weight = saved[0], &a = saved[1], &h = saved[2], &mask = saved[3];
    const auto rows = ctx->saved_data["rows"].toIntVector();
    const auto scales = ctx->saved_data["scales"].toDoubleVector();
    const auto type = x.scalar_type();
    const auto dy = grads[0].contiguous();
    const auto b = at::TensorList(saved).slice(4, rows.size());

    variable_list db(b.size());
    auto dh = at::empty_like(h);
    int64_t start = 0;
    for (size_t i = 0; i < b.size(); ++i) {
      const auto part = dy.narrow(1, rows[i], b[i].size(0));
      hone::mm_into(dh.narrow(1, start, b[i].size(1)), part, b[i].to(type));
      if (b[i].requires_grad()) {
        db[i] = hone::mm(part.t(), h.narrow(1, start, b[i].size(1))).to(b[i].scalar_type());
      }
      start += b[i].size(1);
    }
    scale_parts(dh, b, scales);
    auto da = hone::mm(dh.t(), mask.defined() ? x * mask : x).to(a.scalar_type());

    at::Tensor dx;
    if (ctx->needs_input_grad(0)) {
      dx = hone::mm(dy, weight);
      if (mask.defined()) {
        dx.addcmul_(hone::mm(dh, a.to(type)), mask.to(type));
      } else {
        hone::add_mm(dx, dh, a.to(type));
      }
    }
    // x, weight, bias, a, b..., rows, scales, dropout, seed
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
    const double* scales,
    size_t num_parts,
    double dropout,
    int64_t seed,
    at::Tensor** out) {
  return hone::guarded([&] {
    std::vector<at::Tensor> parts;
    for (size_t i = 0; i < num_parts; ++i) {
      parts.push_back(*b[i]);
    }
    std::vector<int64_t> starts(rows, rows + num_parts);
    std::vector<double> factors(scales, scales + num_parts);
    *out = hone::give(LoraLinear::apply(
        *x, *weight, hone::optional(bias), *a, at::TensorList(parts), starts, factors, dropout, seed));
  });
}

extern "C" char* hone_dropout(const at::Tensor* x, double probability, int64_t seed, at::Tensor** out) {
  return hone::guarded([&] { *out = hone::give(dropped(*x, probability, seed)); });
}
