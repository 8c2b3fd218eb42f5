// Causal attention over documents as one autograd node, from queries, keys and values on.
#include <torch/csrc/autograd/custom_function.h>

#include "documents.h"

namespace attention {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// [T, heads, D] with the heads of a token side by side, as the loops take them.
at::Tensor dense_heads(const at::Tensor& x) {
  return x.stride(2) == 1 && x.stride(1) == x.size(2) ? x : x.contiguous();
}

struct DocumentAttention : public torch::autograd::Function<DocumentAttention> {
  static at::Tensor forward(
      AutogradContext* ctx, const at::Tensor& q_input, const at::Tensor& k_input, const at::Tensor& v_input,
      const std::vector<int64_t>& documents, int64_t window) {
    const auto q = dense_heads(q_input), k = dense_heads(k_input), v = dense_heads(v_input);
    auto out = at::empty(q.sizes(), q.options());
    const auto logsumexp = hone::Documents(documents, window).forward(q, k, v, out);
    ctx->save_for_backward({q, k, v, out, logsumexp});
    ctx->saved_data["documents"] = documents;
    ctx->saved_data["window"] = window;
    return out;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const auto &q = saved[0], &k = saved[1], &v = saved[2], &out = saved[3], &logsumexp = saved[4];
    const hone::Documents documents(ctx->saved_data["documents"].toIntVector(), ctx->saved_data["window"].toInt());
    auto dq = at::empty(q.sizes(), q.options());
    auto dk = at::empty(k.sizes(), k.options());
    auto dv = at::empty(v.sizes(), v.options());
    documents.backward(grads[0].contiguous(), q, k, v, out, logsumexp, dq, dk, dv);
    return {dq, dk, dv, at::Tensor(), at::Tensor()};
  }
};

}  // namespace
}  // namespace attention

// `numbers` is (start, length, prefix start, prefix length) of each document; `window` 0 means none.
extern "C" char* hone_document_attention(
    const at::Tensor* q, const at::Tensor* k, const at::Tensor* v, const int64_t* numbers, size_t num_documents,
    int64_t window, at::Tensor** out) {
  return hone::guarded([&] {
    TORCH_CHECK(q->dim() == 3 && k->dim() == 3 && k->sizes() == v->sizes() && q->size(0) == k->size(0) &&
            q->size(2) == k->size(2) && k->size(1) > 0 && q->size(1) % k->size(1) == 0 &&
            q->scalar_type() == k->scalar_type() && q->scalar_type() == v->scalar_type(),
        "attention: q ", q->sizes(), ", k ", k->sizes(), " and v ", v->sizes(), " do not fit together");
    const std::vector<int64_t> documents(numbers, numbers + hone::Documents::kNumbers * num_documents);
    hone::Documents(documents, window).check_cover(q->size(0));
    *out = hone::give(attention::DocumentAttention::apply(*q, *k, *v, documents, window));
  });
}
