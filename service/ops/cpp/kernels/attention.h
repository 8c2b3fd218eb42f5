// Causal attention of one document, forward: strips of queries over tiles of keys, with a running softmax.
#pragma once

#include "plan.h"

namespace hone::kernels::HONE_LEVEL {
namespace {

// The running softmax of one query: its greatest score, and the sum of the exponentials of the differences to it.
template <typename W>
struct Running {
  W top;
  Vector<W> total;

  // Scores become exponentials. What was summed up so far is to be multiplied by the result.
  W take(W* scores, int64_t count) {
    Vector<W> tops = splat(top);
    for (int64_t i = 0; i < count; i += WIDTH<W>) {
      const Vector<W> s = load(scores + i);
      tops = s > tops ? s : tops;
    }
    const W before = top;
    top = folded<W>(tops, [](W a, W b) { return a > b ? a : b; });
    const W shrink = before == top ? W(1) : exponential(before - top);
    total *= shrink;
    for (int64_t i = 0; i < count; i += WIDTH<W>) {
      const Vector<W> e = exponential(load(scores + i) - top);
      store(scores + i, e);
      total += e;
    }
    return shrink;
  }
  W sum() const {
    return folded<W>(total, [](W a, W b) { return a + b; });
  }
};

template <typename T>
void attend(const Attention<T>& attention) {
  using W = typename Wide<T>::Type;
  const Plan<T> plan{attention};
  const int64_t dim = attention.dim, padded_dim = plan.padded_dim, prefix_len = plan.document.prefix_len;
  Buffer<W> values(plan.padded_keys * padded_dim), keys(plan.padded_keys * dim);
  widen_keys(plan, attention.k, &values[0]);
  transpose<W>(values, plan.padded_keys, padded_dim, dim, keys);
  widen_keys(plan, attention.v, &values[0]);
  Buffer<W> q(TILE_QUERIES * padded_dim), out(TILE_QUERIES * padded_dim), scores(ROWS * TILE_KEYS);
  Running<W> running[TILE_QUERIES];
  for (int64_t head = 0; head < attention.heads; ++head) {
    plan.for_query_tiles([&](int64_t first, int64_t rows) {
      const int64_t padded_rows = rounded_up(rows, ROWS), token = plan.document.start + first;
      const auto of_head = [&](auto x) { return decltype(x){x.first + head * dim, x.stride}; };
      widen_rows(of_head(attention.q), token, rows, dim, attention.scale, &q[0], padded_rows);
      std::fill_n(running, padded_rows, Running<W>{HIDDEN, {}});
      plan.for_key_tiles(first, rows, [&](Span tile) {
        for (int64_t row = 0; row < padded_rows; row += ROWS) {
          const int64_t place = prefix_len + first + row;
          const Span span = plan.strip_seen(place, tile);
          if (span.size() <= 0) {
            continue;
          }
          multiply<Store::SETS>(
              Left<W>{q + row * padded_dim, padded_dim, 1}, columns<W>(keys, span.begin, dim), dim,
              Strip<W>{scores, TILE_KEYS}, span.size());
          const bool begins = span.begin == plan.strip_seen(place, {0, plan.padded_keys}).begin;
          W* sums = out + row * padded_dim;
          for (int64_t i = 0; i < ROWS; ++i) {
            W* row_scores = scores + i * TILE_KEYS;
            hide(row_scores, span, plan.seen(place + i));
            const W shrink = running[row + i].take(row_scores, span.size());
            for (int64_t d = 0; d < padded_dim && !begins; ++d) {
              sums[i * padded_dim + d] *= shrink;
            }
          }
          const Left<W> weights{scores, TILE_KEYS, 1};
          const Right<W> seen_values{values + span.begin * padded_dim, padded_dim, WIDTH<W>};
          const Strip<W> strip{sums, padded_dim};
          if (begins) {
            multiply<Store::SETS>(weights, seen_values, span.size(), strip, padded_dim);
          } else {
            multiply<Store::ADDS>(weights, seen_values, span.size(), strip, padded_dim);
          }
        }
      });
      for (int64_t row = 0; row < rows; ++row) {
        const W sum = running[row].sum();
        narrow_row(out + row * padded_dim, W(1) / sum, of_head(attention.out), token + row, dim);
        attention.logsumexp.first[head * attention.logsumexp.stride + token + row] = running[row].top + std::log(sum);
      }
    });
  }
}

}  // namespace
}  // namespace hone::kernels::HONE_LEVEL
