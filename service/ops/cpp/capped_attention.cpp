// Causal attention whose scores are bounded, as Gemma 2 has it (arXiv:2408.00118), over documents of one length.
//
//   s = scale q k^T,  p = softmax(cap tanh(s / cap)) over the keys that a query sees,  out = p v
//
// q [N, L, H, D], k and v [N, P + L, K, D] -> [N, L, H, D]. Query i of a document is at place P + i; it sees the keys at
// places j <= P + i, and with a window only those with j > P + i - window. Flash kernels do not bound scores, so here they
// are made for a tile of queries at a time, and made again in the backward pass: what is kept between the passes grows
// with the tokens and not with their square. Scores and softmax are float32 whatever the type.
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "guard.h"

namespace capped {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Settings {
  double scale, cap;
  int64_t window, tile;
};

// Queries [row, row + rows) of each document, and the keys [key, key + keys) that any of them sees.
struct Tile {
  int64_t row, rows, key, keys;
};

template <typename Body>
void for_tiles(const at::Tensor& q, const at::Tensor& k, const Settings& settings, Body body) {
  const auto len = q.size(1), past = k.size(1) - len;
  for (int64_t row = 0; row < len; row += settings.tile) {
    const auto rows = std::min(settings.tile, len - row);
    const auto first = settings.window > 0 ? std::max<int64_t>(0, past + row - settings.window + 1) : 0;
    body(Tile{row, rows, first, past + row + rows - first});
  }
}

// Rows of x [N, L, H, D] -> [N K, repeats * rows, D]: query heads that share a key head are rows of one matrix.
at::Tensor queries(const at::Tensor& x, const Tile& tile, int64_t key_heads) {
  const auto rows = x.narrow(1, tile.row, tile.rows).unflatten(2, {key_heads, -1}).permute({0, 2, 3, 1, 4});
  return rows.reshape({x.size(0) * key_heads, -1, x.size(3)});
}

// The way back: [N K, repeats * rows, D] -> [N, rows, H, D], to be written to `rows_of(out, tile)`.
at::Tensor documents(const at::Tensor& x, const Tile& tile, int64_t count) {
  return x.view({count, x.size(0) / count, -1, tile.rows, x.size(2)}).permute({0, 3, 1, 2, 4}).flatten(2, 3);
}

at::Tensor rows_of(const at::Tensor& x, const Tile& tile) {
  return x.narrow(1, tile.row, tile.rows);
}

at::Tensor keys_of(const at::Tensor& x, const Tile& tile) {
  return x.narrow(1, tile.key, tile.keys);
}

// Keys or values [N, P + L, K, D] of a tile -> [N K, keys, D]
at::Tensor keys(const at::Tensor& x, const Tile& tile) {
  return keys_of(x, tile).transpose(1, 2).reshape({-1, tile.keys, x.size(3)});
}

// The way back: [N K, keys, D] -> [N, keys, K, D]
at::Tensor key_documents(const at::Tensor& x, int64_t count) {
  return x.unflatten(0, {count, -1}).transpose(1, 2);
}

// Where a query of the tile does not see a key: bool [rows, keys].
at::Tensor unseen(const at::Tensor& q, const at::Tensor& k, const Tile& tile, const Settings& settings) {
  const auto options = q.options().dtype(at::kLong).requires_grad(false);
  const auto past = k.size(1) - q.size(1) + tile.row;
  const auto distance = at::arange(past, past + tile.rows, options).unsqueeze(1) -
      at::arange(tile.key, tile.key + tile.keys, options).unsqueeze(0);
  const auto future = distance.lt(0);
  return settings.window > 0 ? future.logical_or(distance.ge(settings.window)) : future;
}

// tanh(s / cap) and p of a tile, both [N K, repeats * rows, keys].
std::pair<at::Tensor, at::Tensor> probabilities(
    const at::Tensor& q, const at::Tensor& k, const at::Tensor& q_rows, const at::Tensor& k_rows, const Tile& tile,
    const Settings& settings) {
  auto bounded = at::bmm(q_rows, k_rows.transpose(1, 2)).to(hone::compute_type(q.scalar_type()));
  bounded.mul_(settings.scale / settings.cap).tanh_();
  auto scores = bounded * settings.cap;
  scores.unflatten(1, {-1, tile.rows}).masked_fill_(unseen(q, k, tile, settings), -INFINITY);
  return {bounded, scores.softmax(-1)};
}

struct CappedAttention : public torch::autograd::Function<CappedAttention> {
  static at::Tensor forward(
      AutogradContext* ctx, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double scale, double cap,
      int64_t window, int64_t tile_rows) {
    const Settings settings{scale, cap, window, tile_rows};
    auto out = at::empty(q.sizes(), q.options());
    for_tiles(q, k, settings, [&](const Tile& tile) {
      const auto p = probabilities(q, k, queries(q, tile, k.size(2)), keys(k, tile), tile, settings).second;
      rows_of(out, tile).copy_(documents(at::bmm(p.to(q.scalar_type()), keys(v, tile)), tile, q.size(0)));
    });
    ctx->save_for_backward({q, k, v, out});
    ctx->saved_data["scale"] = scale;
    ctx->saved_data["cap"] = cap;
    ctx->saved_data["window"] = window;
    ctx->saved_data["tile"] = tile_rows;
    return out;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const auto &q = saved[0], &k = saved[1], &v = saved[2], &out = saved[3], &dout = grads[0];
    const Settings settings{
        ctx->saved_data["scale"].toDouble(), ctx->saved_data["cap"].toDouble(), ctx->saved_data["window"].toInt(),
        ctx->saved_data["tile"].toInt()};
    const auto type = q.scalar_type(), wide = hone::compute_type(type);
    const auto count = q.size(0), key_heads = k.size(2);
    auto dq = at::empty(q.sizes(), q.options());
    // Several tiles add to a key, in the wide type.
    auto dk = at::zeros(k.sizes(), k.options().dtype(wide));
    auto dv = at::zeros(v.sizes(), v.options().dtype(wide));
    for_tiles(q, k, settings, [&](const Tile& tile) {
      const auto q_rows = queries(q, tile, key_heads), k_rows = keys(k, tile);
      const auto dout_rows = queries(dout, tile, key_heads);
      auto [bounded, p] = probabilities(q, k, q_rows, k_rows, tile, settings);
      keys_of(dv, tile).add_(key_documents(at::bmm(p.to(type).transpose(1, 2), dout_rows), count));
      // softmax: ds = p (dp - sum over keys of p dp), and that sum is dout . out; then tanh: times 1 - tanh^2.
      const auto dp = at::bmm(dout_rows, keys(v, tile).transpose(1, 2)).to(wide);
      const auto sum = (dout_rows.to(wide) * queries(out, tile, key_heads).to(wide)).sum(-1, true);
      const auto slope = bounded.square_().neg_().add_(1).mul_(settings.scale);
      const auto ds = (p * (dp - sum) * slope).to(type);
      rows_of(dq, tile).copy_(documents(at::bmm(ds, k_rows), tile, count));
      keys_of(dk, tile).add_(key_documents(at::bmm(ds.transpose(1, 2), q_rows), count));
    });
    return {dq, dk.to(type), dv.to(type), at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace
}  // namespace capped

// `window` 0 means none; `tile` is how many queries of each document have their scores at once.
extern "C" char* hone_capped_attention(
    const at::Tensor* q, const at::Tensor* k, const at::Tensor* v, double scale, double cap, int64_t window,
    int64_t tile, at::Tensor** out) {
  return hone::guarded([&] {
    TORCH_CHECK(q->dim() == 4 && k->dim() == 4 && k->sizes() == v->sizes() && q->size(0) == k->size(0) &&
            q->size(1) <= k->size(1) && q->size(3) == k->size(3) && k->size(2) > 0 && q->size(2) % k->size(2) == 0,
        "capped attention: q ", q->sizes(), ", k ", k->sizes(), " and v ", v->sizes(), " do not fit together");
    TORCH_CHECK(cap > 0 && tile > 0 && window >= 0, "capped attention: cap and tile must be positive");
    *out = hone::give(capped::CappedAttention::apply(*q, *k, *v, scale, cap, window, tile));
  });
}
