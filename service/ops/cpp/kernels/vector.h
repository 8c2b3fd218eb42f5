// Vectors as wide as the level has them, and what is computed on all their values at once.
#pragma once

#include "number.h"

namespace hone::kernels::HONE_LEVEL {
namespace {

#if defined(__AVX512F__)
constexpr int64_t BYTES = 64;
#elif defined(__AVX2__)
constexpr int64_t BYTES = 32;
#else
constexpr int64_t BYTES = 16;
#endif

template <typename W>
struct VectorOf {
  typedef W Type __attribute__((vector_size(BYTES)));
};
template <typename W>
using Vector = typename VectorOf<W>::Type;

template <typename W>
constexpr int64_t WIDTH = BYTES / sizeof(W);

constexpr int64_t rounded_up(int64_t x, int64_t unit) {
  return (x + unit - 1) / unit * unit;
}

template <typename W>
inline Vector<W> load(const W* from) {
  Vector<W> x;
  std::memcpy(&x, from, BYTES);
  return x;
}
template <typename W>
inline void store(W* to, Vector<W> x) {
  std::memcpy(to, &x, BYTES);
}

template <typename W>
inline Vector<W> splat(W x) {
  return x - Vector<W>{};
}

// first, first + 1, ...
template <typename W>
inline Vector<W> counted(W first) {
  Vector<W> x;
  for (int64_t lane = 0; lane < WIDTH<W>; ++lane) {
    x[lane] = first + W(lane);
  }
  return x;
}

// All values of x brought together by f.
template <typename W, typename F>
inline W folded(Vector<W> x, F f) {
  W parts[WIDTH<W>];
  store(parts, x);
  for (int64_t half = WIDTH<W> / 2; half > 0; half /= 2) {
    for (int64_t lane = 0; lane < half; ++lane) {
      parts[lane] = f(parts[lane], parts[lane + half]);
    }
  }
  return parts[0];
}

// As for a single number, without branches.
inline Vector<float> exponential(Vector<float> x) {
  typedef int32_t Integers __attribute__((vector_size(BYTES)));
  constexpr float TO_INTEGER = 12582912.0f;  // 1.5 * 2^23: what is added to it is rounded to an integer.
  const Vector<float> low = splat(-87.0f), high = splat(88.0f);
  Vector<float> bounded = x < low ? low : x;
  bounded = bounded > high ? high : bounded;
  const Vector<float> n = (bounded * 1.44269504f + TO_INTEGER) - TO_INTEGER;
  const Vector<float> r = (bounded - n * 0.693359375f) + n * 2.12194440e-4f;
  Vector<float> p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const Integers power = (__builtin_convertvector(n, Integers) + 127) << 23;
  return x < low ? Vector<float>{} : p * (Vector<float>)power;
}
inline Vector<double> exponential(Vector<double> x) {
  Vector<double> y;
  for (int64_t lane = 0; lane < WIDTH<double>; ++lane) {
    y[lane] = std::exp(x[lane]);
  }
  return y;
}

}  // namespace
}  // namespace hone::kernels::HONE_LEVEL
