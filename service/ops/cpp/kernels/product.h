// Products of small matrices: ROWS rows at a time, whose sums stay in registers.
#pragma once

#include "vector.h"

namespace hone::kernels::HONE_LEVEL {
namespace {

// ROWS * VECTORS sums, VECTORS values of the right and one of the left fill the 32 registers of AVX-512, or the 16 of others.
#if defined(__AVX512F__)
constexpr int64_t ROWS = 8, VECTORS = 2;
#else
constexpr int64_t ROWS = 4, VECTORS = 3;
#endif

// Value (i, k) is first[i * row + k * step].
template <typename W>
struct Left {
  const W* first;
  int64_t row, step;
};

// Values (k, n * WIDTH ...) are the vector at first + k * step + n * vector.
template <typename W>
struct Right {
  const W* first;
  int64_t step, vector;
};

// ROWS rows of a product, `stride` apart.
template <typename W>
struct Strip {
  W* first;
  int64_t stride;
};

enum class Store { SETS, ADDS };

template <int N, Store STORE, typename W>
inline void multiply_columns(Left<W> left, Right<W> right, int64_t steps, Strip<W> strip) {
  Vector<W> sums[ROWS][N];
#pragma GCC unroll 8
  for (int64_t i = 0; i < ROWS; ++i) {
#pragma GCC unroll 4
    for (int64_t n = 0; n < N; ++n) {
      sums[i][n] = STORE == Store::ADDS ? load(strip.first + i * strip.stride + n * WIDTH<W>) : Vector<W>{};
    }
  }
  for (int64_t k = 0; k < steps; ++k) {
    Vector<W> values[N];
#pragma GCC unroll 4
    for (int64_t n = 0; n < N; ++n) {
      values[n] = load(right.first + k * right.step + n * right.vector);
    }
#pragma GCC unroll 8
    for (int64_t i = 0; i < ROWS; ++i) {
      const W factor = left.first[i * left.row + k * left.step];
#pragma GCC unroll 4
      for (int64_t n = 0; n < N; ++n) {
        sums[i][n] += factor * values[n];
      }
    }
  }
#pragma GCC unroll 8
  for (int64_t i = 0; i < ROWS; ++i) {
#pragma GCC unroll 4
    for (int64_t n = 0; n < N; ++n) {
      store(strip.first + i * strip.stride + n * WIDTH<W>, sums[i][n]);
    }
  }
}

// strip = left right, or strip += left right, over `steps` of k and `columns`, a multiple of WIDTH.
template <Store STORE, typename W>
inline void multiply(Left<W> left, Right<W> right, int64_t steps, Strip<W> strip, int64_t columns) {
  const auto part = [&](int64_t column) {
    return Right<W>{right.first + column / WIDTH<W> * right.vector, right.step, right.vector};
  };
  int64_t column = 0;
  for (; column + VECTORS * WIDTH<W> <= columns; column += VECTORS * WIDTH<W>) {
    multiply_columns<VECTORS, STORE>(left, part(column), steps, Strip<W>{strip.first + column, strip.stride});
  }
  for (; column < columns; column += WIDTH<W>) {
    multiply_columns<1, STORE>(left, part(column), steps, Strip<W>{strip.first + column, strip.stride});
  }
}

}  // namespace
}  // namespace hone::kernels::HONE_LEVEL
