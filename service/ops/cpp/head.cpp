// The language model's head and its loss, in tiles over tokens, so that logits [N, V] are never held whole.
//
//   nll_i = logsumexp(h_i W^T) - (h_i W^T)[target_i]
//   d nll_i / d h_i = (softmax(h_i W^T) - onehot(target_i)) W
//
// With a soft cap c the logits are z = c tanh(h W^T / c) (Gemma 2), and the gradient gets the factor 1 - (z / c)^2 before
// it meets W.
//
// Where the head is frozen, the gradient to the hidden states is made beside the loss and the backward pass only scales
// it. Where the head is trained, its gradient needs the weight of each position, which is known only then: the backward
// pass makes the logits of each tile again.
//
//   d loss / d W = sum_i g_i (softmax(h_i W^T) - onehot(target_i))^T h_i
//
// Logits are multiplied in the type of the hidden states; softmax and loss are float32 whatever that type is, and the
// head's gradient is added up in float32 over the tiles.
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "guard.h"
#include "matmul.h"
#include "rows.h"

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

void check(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets, int64_t tile) {
  TORCH_CHECK(hidden.dim() == 2 && weight.dim() == 2 && hidden.size(1) == weight.size(1),
      "head: hidden ", hidden.sizes(), " does not fit weight ", weight.sizes());
  TORCH_CHECK(targets.dim() == 1 && targets.size(0) == hidden.size(0) && targets.scalar_type() == at::kLong,
      "head: targets ", targets.sizes(), " must be int64, one for each of ", hidden.size(0), " positions");
  TORCH_CHECK(tile > 0, "head: tile must be positive");
  // On a GPU looking would wait for it; its own kernels check there.
  if (targets.is_cpu() && targets.numel() > 0) {
    const auto flat = targets.contiguous();
    const auto* first = flat.const_data_ptr<int64_t>();
    const auto [least, most] = std::minmax_element(first, first + flat.numel());
    TORCH_CHECK(*least >= 0 && *most < weight.size(0),
        "head: targets lie in [", *least, ", ", *most, "], the vocabulary has ", weight.size(0));
  }
}

// Calls `body(first row of the tile, its rows, log-probabilities [n, V], z / c [n, V] or nothing, targets [n, 1])` for each
// tile.
template <typename Body>
void for_tiles(
    const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets, double soft_cap, int64_t tile, Body body) {
  const auto type = hone::compute_type(hidden.scalar_type());
  for (int64_t start = 0; start < hidden.size(0); start += tile) {
    const auto len = std::min(tile, hidden.size(0) - start);
    auto logits = hone::mm(hidden.narrow(0, start, len), weight.t());
    at::Tensor bounded;
    if (soft_cap > 0) {
      bounded = logits.to(type).div_(soft_cap).tanh_();
      logits = bounded * soft_cap;
    }
    body(start, len, at::log_softmax(logits, 1, type), bounded, targets.narrow(0, start, len).unsqueeze(1));
  }
}

// Turns log-probabilities [n, V] into d nll / d (h W^T), in place; `bounded` is z / c [n, V] or nothing.
at::Tensor slope_of(at::Tensor logps, at::Tensor bounded, const at::Tensor& target) {
  const auto minus_one = at::full(target.sizes(), -1.0, logps.options());
  auto slope = logps.exp_().scatter_add_(1, target, minus_one);
  if (bounded.defined()) {
    slope.mul_(bounded.square_().neg_().add_(1));
  }
  return slope;
}

// Whether the loops over rows do it: on the CPU, of plain logits.
bool has_loops(const at::Tensor& hidden, double soft_cap) {
  const auto type = hidden.scalar_type();
  return hidden.is_cpu() && soft_cap == 0 && (type == at::kFloat || type == at::kDouble || type == at::kBFloat16);
}

// Losses of a tile of logits [n, V]; with `with_slope` the logits become d nll / d logits.
void nll_by_rows(
    const at::Tensor& logits, const at::Tensor& targets, const at::Tensor& nll, const at::Tensor& correct, bool with_slope) {
  const auto width = logits.size(1);
  hone::with_type(logits, [&](auto type) {
    using T = decltype(type);
    using W = typename hone::kernels::Wide<T>::Type;
    hone::for_rows(logits.size(0), width, [&](int64_t first, int64_t count) {
      hone::kernels::kernels<T>().nll(
          hone::values<T>(logits) + first * width, hone::values<int64_t>(targets) + first, hone::values<W>(nll) + first,
          hone::values<bool>(correct) + first, count, width, with_slope);
    });
  });
}

// Losses of all tiles; with a defined `gradient` also d nll / d hidden, which goes there.
void losses_by_rows(
    const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets, int64_t tile, const at::Tensor& nll,
    const at::Tensor& correct, const at::Tensor& gradient) {
  for (int64_t start = 0; start < hidden.size(0); start += tile) {
    const auto count = std::min(tile, hidden.size(0) - start);
    const auto logits = hone::mm(hidden.narrow(0, start, count), weight.t());
    nll_by_rows(logits, targets.narrow(0, start, count), nll.narrow(0, start, count), correct.narrow(0, start, count),
        gradient.defined());
    if (gradient.defined()) {
      hone::mm_into(gradient.narrow(0, start, count), logits, weight);
    }
  }
}

struct HeadNll : public torch::autograd::Function<HeadNll> {
  static variable_list forward(
      AutogradContext* ctx,
      const at::Tensor& hidden,
      const at::Tensor& weight,
      const at::Tensor& targets,
      double soft_cap,
      int64_t tile,
      bool with_gradient) {
    const auto len = hidden.size(0);
    auto nll = at::empty({len}, hidden.options().dtype(hone::compute_type(hidden.scalar_type())));
    auto correct = at::empty({len}, hidden.options().dtype(at::kBool));
    auto gradient = with_gradient ? at::empty_like(hidden) : at::Tensor();
    ctx->save_for_backward({gradient});
    ctx->mark_non_differentiable({correct});
    if (has_loops(hidden, soft_cap)) {
      losses_by_rows(hidden, weight, targets, tile, nll, correct, gradient);
      return {nll, correct};
    }
    for_tiles(hidden, weight, targets, soft_cap, tile,
        [&](int64_t start, int64_t count, at::Tensor logps, at::Tensor bounded, const at::Tensor& target) {
      nll.narrow(0, start, count).copy_(logps.gather(1, target).squeeze(1).neg_());
      correct.narrow(0, start, count).copy_(logps.argmax(1, true).eq_(target).squeeze(1));
      if (with_gradient) {
        auto slope = slope_of(logps, bounded, target);
        auto rows = gradient.narrow(0, start, count);
        at::mm_out(rows, slope.to(hidden.scalar_type()), weight);
      }
    });
    return {nll, correct};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto gradient = ctx->get_saved_variables()[0];
    TORCH_CHECK(gradient.defined(), "head: the loss was made without its gradient");
    auto dhidden = (gradient * grads[0].unsqueeze(1)).to(gradient.scalar_type());
    return {dhidden, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

// The same with a trained head: `weight` is its float32 master.
struct TrainedHeadNll : public torch::autograd::Function<TrainedHeadNll> {
  static variable_list forward(
      AutogradContext* ctx,
      const at::Tensor& hidden,
      const at::Tensor& weight,
      const at::Tensor& targets,
      double soft_cap,
      int64_t tile) {
    const auto len = hidden.size(0);
    auto nll = at::empty({len}, hidden.options().dtype(hone::compute_type(hidden.scalar_type())));
    auto correct = at::empty({len}, hidden.options().dtype(at::kBool));
    ctx->save_for_backward({hidden, weight, targets});
    ctx->saved_data["tile"] = tile;
    ctx->saved_data["soft_cap"] = soft_cap;
    ctx->mark_non_differentiable({correct});
    const auto head = weight.to(hidden.scalar_type());
    if (has_loops(hidden, soft_cap)) {
      losses_by_rows(hidden, head, targets, tile, nll, correct, at::Tensor());
      return {nll, correct};
    }
    for_tiles(hidden, head, targets, soft_cap, tile,
        [&](int64_t start, int64_t count, at::Tensor logps, at::Tensor, const at::Tensor& target) {
      nll.narrow(0, start, count).copy_(logps.gather(1, target).squeeze(1).neg_());
      correct.narrow(0, start, count).copy_(logps.argmax(1, true).eq_(target).squeeze(1));
    });
    return {nll, correct};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const auto &hidden = saved[0], &weight = saved[1], &targets = saved[2];
    const auto type = hidden.scalar_type();
    const auto head = weight.to(type);
    auto dhidden = at::empty_like(hidden);
    auto dweight = at::zeros_like(weight);
    for_tiles(hidden, head, targets, ctx->saved_data["soft_cap"].toDouble(), ctx->saved_data["tile"].toInt(),
        [&](int64_t start, int64_t count, at::Tensor logps, at::Tensor bounded, const at::Tensor& target) {
          const auto weights = grads[0].narrow(0, start, count).unsqueeze(1);
          const auto slope = slope_of(logps, bounded, target).mul_(weights).to(type);
          auto rows = dhidden.narrow(0, start, count);
          at::mm_out(rows, slope, head);
          dweight.add_(at::mm(slope.t(), hidden.narrow(0, start, count)));
        });
    return {dhidden, dweight, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

// `soft_cap` 0 means none.
extern "C" char* hone_head_nll(
    const at::Tensor* hidden,
    const at::Tensor* weight,
    const at::Tensor* targets,
    double soft_cap,
    int64_t tile,
    at::Tensor** nll,
    at::Tensor** correct) {
  return hone::guarded([&] {
    check(*hidden, *weight, *targets, tile);
    const bool with_gradient = at::GradMode::is_enabled() && hidden->requires_grad();
    const bool is_trained = at::GradMode::is_enabled() && weight->requires_grad();
    auto results = is_trained
        ? TrainedHeadNll::apply(hidden->contiguous(), *weight, targets->contiguous(), soft_cap, tile)
        : HeadNll::apply(
              hidden->contiguous(), weight->detach().to(hidden->scalar_type()), targets->contiguous(), soft_cap, tile, with_gradient);
    *nll = hone::give(results[0]);
    *correct = hone::give(results[1]);
  });
}
