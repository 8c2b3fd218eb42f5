// Gradients of causal attention of one document. Scores are made again from the logarithms of their sums, tile by tile; the
// gradients of keys and values of the whole document are summed up in scratch.
#pragma once

#include "plan.h"

namespace hone::kernels::HONE_LEVEL {
namespace {

// P and dS of a tile, as far as they are seen.
template <typename W>
struct Scores {
  static constexpr int64_t STRIDE = TILE_KEYS + UNIT<W>;  // no power of two, since columns are read

  Buffer<W> p{TILE_QUERIES * STRIDE}, ds{TILE_QUERIES * STRIDE};
};

// The keys and values of a document with their gradients, wide.
template <typename T>
struct WideKeys {
  using W = typename Wide<T>::Type;

  const Plan<T>& plan;
  Buffer<W> rows{plan.padded_keys * plan.padded_dim};
  Buffer<W> keys{plan.padded_keys * plan.attention.dim}, values{plan.padded_keys * plan.attention.dim};
  Buffer<W> dk{plan.padded_keys * plan.padded_dim}, dv{plan.padded_keys * plan.padded_dim};

  explicit WideKeys(const Plan<T>& plan) : plan(plan) {
    const int64_t dim = plan.attention.dim, size = plan.padded_keys * plan.padded_dim;
    widen_keys(plan, plan.attention.v, &rows[0]);
    transpose<W>(rows, plan.padded_keys, plan.padded_dim, dim, values);
    widen_keys(plan, plan.attention.k, &rows[0]);
    transpose<W>(rows, plan.padded_keys, plan.padded_dim, dim, keys);
    std::memset(dk, 0, size * sizeof(W));
    std::memset(dv, 0, size * sizeof(W));
  }

  void give(const W* wide, Head<W> own, Head<W> prefix) const {
    const auto& document = plan.document;
    for (int64_t key = 0; key < plan.keys; ++key, wide += plan.padded_dim) {
      const bool is_prefix = key < document.prefix_len;
      const int64_t row = is_prefix ? key : document.start + key - document.prefix_len;
      narrow_row(wide, W(1), is_prefix ? prefix : own, row, plan.attention.dim);
    }
  }
};

// What the backward pass wants of a tile of queries, wide.
template <typename T>
struct WideQueries {
  using W = typename Wide<T>::Type;

  const Plan<T>& plan;
  Buffer<W> q{TILE_QUERIES * plan.padded_dim}, dout{TILE_QUERIES * plan.padded_dim}, dq{TILE_QUERIES * plan.padded_dim};
  W logsumexp[TILE_QUERIES], along[TILE_QUERIES];  // `along` is dout . out, the sum over keys of p dp
  int64_t rows = 0, padded_rows = 0, place = 0;

  explicit WideQueries(const Plan<T>& plan) : plan(plan) {}

  void take(
      Head<const T> q_head, Head<const T> dout_head, Head<T> out_head, const W* logsumexps, int64_t first, int64_t count) {
    const auto& attention = plan.attention;
    const int64_t token = plan.document.start + first, dim = attention.dim, padded_dim = plan.padded_dim;
    rows = count;
    padded_rows = rounded_up(count, ROWS);
    place = plan.document.prefix_len + first;
    widen_rows(Head<const T>{out_head.first, out_head.stride}, token, rows, dim, W(1), &dq[0], padded_rows);
    widen_rows(dout_head, token, rows, dim, W(1), &dout[0], padded_rows);
    for (int64_t row = 0; row < padded_rows; ++row) {
      Vector<W> sum{};
      for (int64_t i = 0; i < padded_dim; i += WIDTH<W>) {
        sum += load(dq + row * padded_dim + i) * load(dout + row * padded_dim + i);
      }
      along[row] = folded<W>(sum, [](W a, W b) { return a + b; });
      logsumexp[row] = row < rows ? logsumexps[token + row] : W(0);
    }
    widen_rows(q_head, token, rows, dim, attention.scale, &q[0], padded_rows);
    std::memset(dq, 0, padded_rows * padded_dim * sizeof(W));
  }
};

// p = exp(s - logsumexp), ds = p (dp - along) and dq += ds k of a strip of queries.
template <typename T, typename W>
void strip_backward(const Plan<T>& plan, const WideKeys<T>& keys, const WideQueries<T>& queries, const Scores<W>& scores,
    int64_t row, Span tile) {
  constexpr int64_t STRIDE = Scores<W>::STRIDE;
  const int64_t dim = plan.attention.dim, padded_dim = plan.padded_dim;
  const Span span = plan.strip_seen(queries.place + row, tile);
  if (span.size() <= 0) {
    return;
  }
  W *p = scores.p + row * STRIDE + span.begin - tile.begin, *ds = scores.ds + row * STRIDE + span.begin - tile.begin;
  const auto left = [&](const W* x) { return Left<W>{x + row * padded_dim, padded_dim, 1}; };
  multiply<Store::SETS>(left(queries.q), columns<W>(keys.keys, span.begin, dim), dim, Strip<W>{p, STRIDE}, span.size());
  multiply<Store::SETS>(
      left(queries.dout), columns<W>(keys.values, span.begin, dim), dim, Strip<W>{ds, STRIDE}, span.size());
  for (int64_t i = 0; i < ROWS; ++i) {
    W *p_row = p + i * STRIDE, *ds_row = ds + i * STRIDE;
    hide(p_row, span, plan.seen(queries.place + row + i));
    const W logsumexp = queries.logsumexp[row + i], along = queries.along[row + i];
    for (int64_t j = 0; j < span.size(); j += WIDTH<W>) {
      const Vector<W> weight = exponential(load(p_row + j) - logsumexp);
      store(p_row + j, weight);
      store(ds_row + j, weight * (load(ds_row + j) - along));
    }
  }
  multiply<Store::ADDS>(
      Left<W>{ds, STRIDE, 1}, Right<W>{keys.rows + span.begin * padded_dim, padded_dim, WIDTH<W>}, span.size(),
      Strip<W>{queries.dq + row * padded_dim, padded_dim}, padded_dim);
}

// dv += p^T dout and dk += ds^T q of a tile.
template <typename T, typename W>
void keys_backward(const Plan<T>& plan, const WideKeys<T>& keys, const WideQueries<T>& queries, const Scores<W>& scores,
    Span tile) {
  constexpr int64_t STRIDE = Scores<W>::STRIDE;
  const int64_t padded_dim = plan.padded_dim;
  for (int64_t key = tile.begin; key < tile.end; key += ROWS) {
    const Span seeing = plan.strips_seeing(key, queries.place, queries.padded_rows);
    if (seeing.size() <= 0) {
      continue;
    }
    const auto add = [&](const W* weights, const W* rows, W* sums) {
      multiply<Store::ADDS>(
          Left<W>{weights + seeing.begin * STRIDE + key - tile.begin, 1, STRIDE},
          Right<W>{rows + seeing.begin * padded_dim, padded_dim, WIDTH<W>}, seeing.size(),
          Strip<W>{sums + key * padded_dim, padded_dim}, padded_dim);
    };
    add(scores.p, queries.dout, keys.dv);
    add(scores.ds, queries.q, keys.dk);
  }
}

template <typename T>
void attend_backward(const Attention<T>& attention, const AttentionGradient<T>& gradient) {
  using W = typename Wide<T>::Type;
  const Plan<T> plan{attention};
  const WideKeys<T> keys(plan);
  WideQueries<T> queries(plan);
  const Scores<W> scores;
  for (int64_t head = 0; head < attention.heads; ++head) {
    const auto of_head = [&](auto x) { return decltype(x){x.first + head * attention.dim, x.stride}; };
    const W* logsumexps = attention.logsumexp.first + head * attention.logsumexp.stride;
    plan.for_query_tiles([&](int64_t first, int64_t rows) {
      queries.take(of_head(attention.q), of_head(gradient.dout), of_head(attention.out), logsumexps, first, rows);
      plan.for_key_tiles(first, rows, [&](Span tile) {
        for (int64_t row = 0; row < queries.padded_rows; row += ROWS) {
          strip_backward(plan, keys, queries, scores, row, tile);
        }
        keys_backward(plan, keys, queries, scores, tile);
      });
      for (int64_t row = 0; row < rows; ++row) {
        narrow_row(
            queries.dq + row * plan.padded_dim, attention.scale, of_head(gradient.dq),
            plan.document.start + first + row, attention.dim);
      }
    });
  }
  keys.give(keys.dk, gradient.dk, gradient.prefix_dk);
  keys.give(keys.dv, gradient.dv, gradient.prefix_dv);
}

}  // namespace
}  // namespace hone::kernels::HONE_LEVEL
