// Loops over rows that LibTorch has only as chains of operators. No tensors here: pointers and sizes, so that one source is
// compiled for several kinds of processors and the best is chosen when the program runs.
//
// Types are float, bfloat16 and double; what is computed is float for the first two. Rows are T tokens.
#pragma once

#include <cstdint>

namespace hone::kernels {

// A bfloat16: the upper half of a float.
struct Bf16 {
  uint16_t bits;
};

template <typename T>
struct Wide {
  using Type = float;
};
template <>
struct Wide<double> {
  using Type = double;
};

// One row of `width` heads is rotated, `rotary` of the `dim` dimensions of each head; angles have rotary / 2 columns.
struct Rotation {
  int64_t heads, dim, rotary;
};

// A document in flat rows of tokens: `len` of them from `start` on, behind the `prefix_len` from `prefix_start` on that it
// continues. Token i of all these, its place, sees j <= i, and with a window only j > i - window; 0 is none.
struct Document {
  int64_t start, len, prefix_start, prefix_len, window;
};

// One head in flat rows of tokens: token t has its values at first + t * stride.
template <typename T>
struct Head {
  T* first;
  int64_t stride;
};

// softmax(scale q k^T) v of a document, for `heads` query heads side by side that share a key head.
template <typename T>
struct Attention {
  using W = typename Wide<T>::Type;

  Document document;
  int64_t heads, dim;
  W scale;
  Head<const T> q, k, v;
  Head<T> out;
  // Of each query the logarithm of the sum of its exponentials; those of a head lie `stride` apart from those of the next.
  Head<W> logsumexp;
};

// The gradients of keys and values are sums over `heads`; `prefix_dk` and `prefix_dv` begin with the prefix's first token.
template <typename T>
struct AttentionGradient {
  using W = typename Wide<T>::Type;

  Head<const T> dout;
  Head<T> dq;
  Head<W> dk, dv, prefix_dk, prefix_dv;
};

template <typename T>
struct Kernels {
  using W = typename Wide<T>::Type;

  // y = round(x r) w, or round(x r (1 + w)) with `plus_one`, where r = 1 / sqrt(mean(x^2) + eps) goes to `scales`.
  void (*norm)(const T* x, const T* w, T* y, W* scales, int64_t rows, int64_t width, double eps, bool plus_one);
  // Its gradient: g = dy w, dx = r g - x r^3 mean(g x).
  void (*norm_backward)(
      const T* dy, const T* x, const T* w, const W* scales, T* dx, int64_t rows, int64_t width, bool plus_one);

  // y = round(silu(gate)) up; x [rows, 2 width] holds gate and up side by side.
  void (*swiglu)(const T* x, T* y, int64_t rows, int64_t width);
  void (*swiglu_backward)(const T* dy, const T* x, T* dx, int64_t rows, int64_t width);

  // Turns heads: (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin); `inverse` turns them back. In and out may be the same.
  void (*rotate)(
      const T* x, int64_t x_stride, T* y, int64_t y_stride, const T* cos, const T* sin, int64_t rows, Rotation rotation,
      bool inverse);

  // Of each row of logits the negative log-likelihood of its target and whether that is the likeliest, the first of several.
  // `with_slope` puts softmax - onehot in the place of the logits.
  void (*nll)(
      T* logits, const int64_t* targets, W* nll, bool* correct, int64_t rows, int64_t width, bool with_slope);

  // Causal attention of one document (FlashAttention-2, arXiv:2307.08691): what is kept grows with the tokens, not with
  // their square.
  void (*attend)(const Attention<T>& attention);
  void (*attend_backward)(const Attention<T>& attention, const AttentionGradient<T>& gradient);
};

// For the processor that this runs on.
template <typename T>
const Kernels<T>& kernels();

}  // namespace hone::kernels
