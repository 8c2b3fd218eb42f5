// Rotation and causal attention over documents as one autograd node, from the stacked projection on: nothing is split on the
// way there and joined on the way back.
#include <torch/csrc/autograd/custom_function.h>

#include "documents.h"

namespace rotary {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Queries, keys and values side by side, as their stacked projection gives them: [T, (H + 2 K) D].
struct Heads {
  int64_t queries, keys, dim;

  at::Tensor of(const at::Tensor& qkv, int64_t first, int64_t count) const {
    return qkv.narrow(1, first * dim, count * dim).unflatten(1, {count, dim});
  }
  at::Tensor q(const at::Tensor& qkv) const {
    return of(qkv, 0, queries);
  }
  at::Tensor k(const at::Tensor& qkv) const {
    return of(qkv, queries, keys);
  }
  at::Tensor v(const at::Tensor& qkv) const {
    return of(qkv, queries + keys, keys);
  }

  // Turns queries and keys of `from` into `to`, which may be the same; cos and sin [T, R / 2].
  void rotate(
      const at::Tensor& from, const at::Tensor& to, const at::Tensor& cos, const at::Tensor& sin, bool inverse) const {
    const auto rows = from.size(0), width = from.size(1), half = cos.size(1);
    hone::with_type(from, [&](auto type) {
      using T = decltype(type);
      hone::for_rows(rows, width, [&](int64_t first, int64_t count) {
        hone::kernels::kernels<T>().rotate(
            hone::values<T>(from) + first * width, width, hone::values<T>(to) + first * width, width,
            hone::values<T>(cos) + first * half, hone::values<T>(sin) + first * half, count,
            {queries + keys, dim, 2 * half}, inverse);
      });
    });
  }
};

struct RotaryAttention : public torch::autograd::Function<RotaryAttention> {
  static at::Tensor forward(
      AutogradContext* ctx, const at::Tensor& input, const at::Tensor& cos, const at::Tensor& sin, int64_t queries,
      int64_t keys, const std::vector<int64_t>& documents, int64_t window) {
    const Heads heads{queries, keys, input.size(1) / (queries + 2 * keys)};
    const auto qkv = input.clone(at::MemoryFormat::Contiguous);
    heads.rotate(qkv, qkv, cos, sin, /*inverse=*/false);
    auto out = at::empty({qkv.size(0), queries, heads.dim}, qkv.options());
    const auto logsumexp =
        hone::Documents(documents, window).forward(heads.q(qkv), heads.k(qkv), heads.v(qkv), out);
    ctx->save_for_backward({qkv, out, logsumexp, cos, sin});
    ctx->saved_data["documents"] = documents;
    ctx->saved_data["window"] = window;
    ctx->saved_data["queries"] = queries;
    ctx->saved_data["keys"] = keys;
    return out;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const auto &qkv = saved[0], &out = saved[1], &logsumexp = saved[2], &cos = saved[3], &sin = saved[4];
    const hone::Documents documents(ctx->saved_data["documents"].toIntVector(), ctx->saved_data["window"].toInt());
    const Heads heads{ctx->saved_data["queries"].toInt(), ctx->saved_data["keys"].toInt(), out.size(2)};
    auto dqkv = at::empty_like(qkv);
    documents.backward(
        grads[0].contiguous(), heads.q(qkv), heads.k(qkv), heads.v(qkv), out, logsumexp, heads.q(dqkv), heads.k(dqkv),
        heads.v(dqkv));
    heads.rotate(dqkv, dqkv, cos, sin, /*inverse=*/true);
    variable_list result(7);
    result[0] = dqkv;
    return result;
  }
};

}  // namespace
}  // namespace rotary

// qkv [T, (H + 2 K) D], whose queries and keys are rotated by cos and sin [T, R / 2]; documents as for the plain node.
extern "C" char* hone_rotary_attention(
    const at::Tensor* qkv, const at::Tensor* cos, const at::Tensor* sin, int64_t queries, int64_t keys,
    const int64_t* numbers, size_t num_documents, int64_t window, at::Tensor** out) {
  return hone::guarded([&] {
    const auto count = queries + 2 * keys;
    TORCH_CHECK(qkv->dim() == 2 && keys > 0 && queries % keys == 0 && qkv->size(1) % count == 0,
        "attention: ", qkv->sizes(), " holds no ", queries, " query heads and ", keys, " key and value heads");
    TORCH_CHECK(cos->dim() == 2 && cos->sizes() == sin->sizes() && cos->size(0) == qkv->size(0) &&
            2 * cos->size(1) <= qkv->size(1) / count && cos->scalar_type() == qkv->scalar_type() &&
            sin->scalar_type() == qkv->scalar_type() && cos->is_contiguous() && sin->is_contiguous(),
        "attention: angles ", cos->sizes(), " do not fit ", qkv->sizes());
    const std::vector<int64_t> documents(numbers, numbers + hone::Documents::kNumbers * num_documents);
    hone::Documents(documents, window).check_cover(qkv->size(0));
    *out = hone::give(rotary::RotaryAttention::apply(*qkv, *cos, *sin, queries, keys, documents, window));
  });
}
