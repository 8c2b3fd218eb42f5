// The loops, compiled once for each level of processors; HONE_LEVEL names it. They are written so that the compiler makes
// vectors of them without being allowed to change what they compute: sums have LANES parts of their own.
#include <algorithm>
#include <cmath>
#include <limits>

#include "attention.h"
#include "attention_backward.h"
#include "kernels.h"
#include "number.h"

namespace hone::kernels::HONE_LEVEL {
namespace {

constexpr int64_t LANES = 32;

template <typename W>
inline W sigmoid(W x) {
  return W(1) / (W(1) + exponential(-x));
}

// The sum of f(i) over 0..width.
template <typename W, typename F>
inline W sum(int64_t width, F f) {
  W parts[LANES] = {};
  int64_t i = 0;
  for (; i + LANES <= width; i += LANES) {
    for (int64_t lane = 0; lane < LANES; ++lane) {
      parts[lane] += f(i + lane);
    }
  }
  for (; i < width; ++i) {
    parts[i % LANES] += f(i);
  }
  for (int64_t half = LANES / 2; half > 0; half /= 2) {
    for (int64_t lane = 0; lane < half; ++lane) {
      parts[lane] += parts[lane + half];
    }
  }
  return parts[0];
}

template <typename T>
void norm(
    const T* __restrict x, const T* __restrict w, T* __restrict y, typename Wide<T>::Type* scales, int64_t rows,
    int64_t width, double eps, bool plus_one) {
  using W = typename Wide<T>::Type;
  for (int64_t row = 0; row < rows; ++row, x += width, y += width) {
    const W squares = sum<W>(width, [&](int64_t i) { return widen(x[i]) * widen(x[i]); });
    const W scale = W(1) / std::sqrt(squares / W(width) + W(eps));
    scales[row] = scale;
    if (plus_one) {
      for (int64_t i = 0; i < width; ++i) {
        y[i] = narrow<T>(widen(x[i]) * scale * (W(1) + widen(w[i])));
      }
    } else {
      for (int64_t i = 0; i < width; ++i) {
        y[i] = narrow<T>(rounded<T>(widen(x[i]) * scale) * widen(w[i]));
      }
    }
  }
}

template <typename T>
void norm_backward(
    const T* __restrict dy, const T* __restrict x, const T* __restrict w, const typename Wide<T>::Type* scales,
    T* __restrict dx, int64_t rows, int64_t width, bool plus_one) {
  using W = typename Wide<T>::Type;
  const W one = plus_one ? W(1) : W(0);
  for (int64_t row = 0; row < rows; ++row, dy += width, x += width, dx += width) {
    const auto g = [&](int64_t i) { return widen(dy[i]) * (one + widen(w[i])); };
    const W dot = sum<W>(width, [&](int64_t i) { return g(i) * widen(x[i]); });
    const W scale = scales[row], along = scale * scale * scale * dot / W(width);
    for (int64_t i = 0; i < width; ++i) {
      dx[i] = narrow<T>(scale * g(i) - along * widen(x[i]));
    }
  }
}

template <typename T>
void swiglu(const T* __restrict x, T* __restrict y, int64_t rows, int64_t width) {
  for (int64_t row = 0; row < rows; ++row, x += 2 * width, y += width) {
    const T *gate = x, *up = x + width;
    for (int64_t i = 0; i < width; ++i) {
      const auto g = widen(gate[i]);
      y[i] = narrow<T>(rounded<T>(g * sigmoid(g)) * widen(up[i]));
    }
  }
}

template <typename T>
void swiglu_backward(const T* __restrict dy, const T* __restrict x, T* __restrict dx, int64_t rows, int64_t width) {
  using W = typename Wide<T>::Type;
  for (int64_t row = 0; row < rows; ++row, dy += width, x += 2 * width, dx += 2 * width) {
    const T *gate = x, *up = x + width;
    T *dgate = dx, *dup = dx + width;
    for (int64_t i = 0; i < width; ++i) {
      const W g = widen(gate[i]), d = widen(dy[i]), bent = sigmoid(g);
      dgate[i] = narrow<T>(d * widen(up[i]) * bent * (W(1) + g * (W(1) - bent)));
      dup[i] = narrow<T>(d * g * bent);
    }
  }
}

template <typename T>
void rotate(
    const T* x, int64_t x_stride, T* y, int64_t y_stride, const T* cos, const T* sin, int64_t rows, Rotation rotation,
    bool inverse) {
  using W = typename Wide<T>::Type;
  const int64_t half = rotation.rotary / 2;
  const W sign = inverse ? W(-1) : W(1);
  for (int64_t row = 0; row < rows; ++row, x += x_stride, y += y_stride, cos += half, sin += half) {
    for (int64_t head = 0; head < rotation.heads; ++head) {
      const T* from = x + head * rotation.dim;
      T* to = y + head * rotation.dim;
      for (int64_t i = 0; i < half; ++i) {
        const W first = widen(from[i]), second = widen(from[half + i]), c = widen(cos[i]), s = sign * widen(sin[i]);
        to[i] = narrow<T>(first * c - second * s);
        to[half + i] = narrow<T>(second * c + first * s);
      }
      if (from != to) {
        std::copy(from + rotation.rotary, from + rotation.dim, to + rotation.rotary);
      }
    }
  }
}

template <typename T>
void nll(
    T* logits, const int64_t* targets, typename Wide<T>::Type* losses, bool* correct, int64_t rows, int64_t width,
    bool with_slope) {
  using W = typename Wide<T>::Type;
  for (int64_t row = 0; row < rows; ++row, logits += width) {
    W tops[LANES];
    std::fill_n(tops, LANES, -std::numeric_limits<W>::infinity());
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES) {
      for (int64_t lane = 0; lane < LANES; ++lane) {
        const W logit = widen(logits[i + lane]);
        tops[lane] = logit > tops[lane] ? logit : tops[lane];
      }
    }
    W top = *std::max_element(tops, tops + LANES);
    for (; i < width; ++i) {
      top = std::max(top, W(widen(logits[i])));
    }
    const W total = sum<W>(width, [&](int64_t i) { return exponential(widen(logits[i]) - top); });
    const W log_total = top + std::log(total);
    const int64_t target = targets[row];
    const W logit = widen(logits[target]);
    losses[row] = log_total - logit;
    const auto is_top = [&](T other) { return widen(other) == top; };
    correct[row] = logit == top && std::none_of(logits, logits + target, is_top);
    if (with_slope) {
      for (int64_t i = 0; i < width; ++i) {
        logits[i] = narrow<T>(exponential(widen(logits[i]) - log_total));
      }
      logits[target] = narrow<T>(exponential(logit - log_total) - W(1));
    }
  }
}

}  // namespace

template <typename T>
Kernels<T> table() {
  return {norm<T>, norm_backward<T>, swiglu<T>, swiglu_backward<T>, rotate<T>, nll<T>, attend<T>, attend_backward<T>};
}

template Kernels<float> table();
template Kernels<double> table();
template Kernels<Bf16> table();

}  // namespace hone::kernels::HONE_LEVEL
