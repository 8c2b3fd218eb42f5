// How attention goes through one document: tiles of queries over tiles of keys, and of each tile only what is seen. Everything
// is made wide and dense first, since flat rows may lie a power of two apart, which caches bear badly.
#pragma once

#include <algorithm>
#include <new>

#include "product.h"

namespace hone::kernels::HONE_LEVEL {
namespace {

// Queries and keys of a tile; their scores fit the second cache.
constexpr int64_t TILE_QUERIES = 64, TILE_KEYS = 256;

// Less than any score, and finite: the difference of two is no NaN.
constexpr float HIDDEN = -1e30f;

// Spans of keys are rounded to these: whole vectors, and whole strips of the transposed products.
template <typename W>
constexpr int64_t UNIT = std::max(WIDTH<W>, ROWS);

template <typename W>
class Buffer {
 public:
  explicit Buffer(int64_t values) : first_(static_cast<W*>(::operator new(values * sizeof(W), ALIGNMENT))) {}
  ~Buffer() {
    ::operator delete(first_, ALIGNMENT);
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  operator W*() const {
    return first_;
  }

 private:
  static constexpr std::align_val_t ALIGNMENT{64};
  W* first_;
};

struct Span {
  int64_t begin, end;

  int64_t size() const {
    return end - begin;
  }
  Span within(Span other) const {
    return {std::max(begin, other.begin), std::min(end, other.end)};
  }
};

// What both passes know about a document: sizes, who sees whom, and where tiles begin.
template <typename T>
struct Plan {
  using W = typename Wide<T>::Type;

  const Attention<T>& attention;
  const Document& document = attention.document;
  int64_t keys = document.prefix_len + document.len;
  int64_t padded_keys = rounded_up(keys, UNIT<W>);
  int64_t padded_dim = rounded_up(attention.dim, WIDTH<W>);

  // Keys that the query at this place sees.
  Span seen(int64_t place) const {
    const int64_t first = document.window > 0 ? place - document.window + 1 : 0;
    return {std::max<int64_t>(0, first), std::min(place + 1, keys)};
  }
  // Those of a tile of keys that any of the ROWS queries from this place on sees, in whole units.
  Span strip_seen(int64_t place, Span tile) const {
    const int64_t begin = seen(place).begin / UNIT<W> * UNIT<W>;
    return Span{begin, rounded_up(seen(place + ROWS - 1).end, UNIT<W>)}.within(tile);
  }
  // Strips of the queries [0, rows), the first at this place, that see any of the ROWS keys from `key` on.
  Span strips_seeing(int64_t key, int64_t place, int64_t rows) const {
    const int64_t begin = std::max<int64_t>(0, key - place) / ROWS * ROWS;
    const int64_t end = document.window > 0 ? key + ROWS - 1 + document.window - place : rows;
    return {begin, std::min(rows, rounded_up(std::max<int64_t>(0, end), ROWS))};
  }

  template <typename Body>
  void for_query_tiles(Body body) const {
    for (int64_t row = 0; row < document.len; row += TILE_QUERIES) {
      body(row, std::min(TILE_QUERIES, document.len - row));
    }
  }
  // Tiles of keys that queries [row, row + rows) see.
  template <typename Body>
  void for_key_tiles(int64_t row, int64_t rows, Body body) const {
    const int64_t place = document.prefix_len + row;
    for (int64_t key = seen(place).begin / TILE_KEYS * TILE_KEYS; key < seen(place + rows - 1).end; key += TILE_KEYS) {
      body(Span{key, std::min(key + TILE_KEYS, padded_keys)});
    }
  }
};

// Tokens [first, first + rows) of a head, times `factor`; zeros behind them and behind their dimensions.
template <typename T, typename W>
void widen_rows(Head<const T> head, int64_t first, int64_t rows, int64_t dim, W factor, W* to, int64_t padded_rows) {
  const int64_t padded_dim = rounded_up(dim, WIDTH<W>);
  std::memset(to + rows * padded_dim, 0, (padded_rows - rows) * padded_dim * sizeof(W));
  for (int64_t row = 0; row < rows; ++row, to += padded_dim) {
    const T* from = head.first + (first + row) * head.stride;
    for (int64_t i = 0; i < dim; ++i) {
      to[i] = widen(from[i]) * factor;
    }
    for (int64_t i = dim; i < padded_dim; ++i) {
      to[i] = W(0);
    }
  }
}

template <typename T, typename W>
void narrow_row(const W* from, W factor, Head<T> head, int64_t token, int64_t dim) {
  T* to = head.first + token * head.stride;
  for (int64_t i = 0; i < dim; ++i) {
    to[i] = narrow<T>(from[i] * factor);
  }
}

// The keys or values of a document, those of its prefix first.
template <typename T, typename W>
void widen_keys(const Plan<T>& plan, Head<const T> head, W* to) {
  const auto& [start, len, prefix_start, prefix_len, window] = plan.document;
  const int64_t dim = plan.attention.dim;
  widen_rows(head, prefix_start, prefix_len, dim, W(1), to, prefix_len);
  widen_rows(head, start, len, dim, W(1), to + prefix_len * plan.padded_dim, plan.padded_keys - prefix_len);
}

// Wide rows [keys, padded_dim] -> [keys / WIDTH, dim, WIDTH]: the right side of a product with keys as columns.
template <typename W>
void transpose(const W* from, int64_t rows, int64_t padded_dim, int64_t dim, W* to) {
  for (int64_t row = 0; row < rows; row += WIDTH<W>, from += WIDTH<W> * padded_dim, to += WIDTH<W> * dim) {
    for (int64_t i = 0; i < dim; ++i) {
      for (int64_t lane = 0; lane < WIDTH<W>; ++lane) {
        to[i * WIDTH<W> + lane] = from[lane * padded_dim + i];
      }
    }
  }
}

// Keys from `key` on as columns.
template <typename W>
Right<W> columns(const W* transposed, int64_t key, int64_t dim) {
  return {transposed + key * dim, WIDTH<W>, WIDTH<W> * dim};
}

// Scores of one query for the keys of `span`, of which it sees those of `seen`.
template <typename W>
void hide(W* scores, Span span, Span seen) {
  for (int64_t key = span.begin; key < seen.begin && key < span.end; key += WIDTH<W>) {
    W* at = scores + key - span.begin;
    store(at, counted(W(key)) < splat(W(seen.begin)) ? splat(W(HIDDEN)) : load(at));
  }
  for (int64_t key = std::max(span.begin, seen.end / WIDTH<W> * WIDTH<W>); key < span.end; key += WIDTH<W>) {
    W* at = scores + key - span.begin;
    store(at, counted(W(key)) < splat(W(seen.end)) ? load(at) : splat(W(HIDDEN)));
  }
}

}  // namespace
}  // namespace hone::kernels::HONE_LEVEL
