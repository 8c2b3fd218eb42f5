// Causal attention over documents on CUDA: one call of LibTorch's flash attention of variable lengths, which has its derivative.
// Paper: Dao 2023, arXiv:2307.08691.
#include "guard.h"

// Starts are [documents + 1] int32 on the device; window 0 means none. Where a document has more keys than
// queries, the last of either are the same token.
extern "C" char* hone_varlen_flash(
    const at::Tensor* q,
    const at::Tensor* k,
    const at::Tensor* v,
    const at::Tensor* query_starts,
    int64_t longest_query,
    const at::Tensor* key_starts,
    int64_t longest_key,
    int64_t window,
    at::Tensor** out) {
  return hone::guarded([&] {
    TORCH_CHECK(q->dim() == 3 && k->dim() == 3 && k->sizes() == v->sizes() && q->size(2) == k->size(2) && k->size(1) > 0 &&
            q->size(1) % k->size(1) == 0,
        "attention: q ", q->sizes(), ", k ", k->sizes(), " and v ", v->sizes(), " do not fit together");
    // Token i sees j when i - window < j <= i: window - 1 to its left.
    const auto left = window > 0 ? std::make_optional(window - 1) : std::nullopt;
    const auto right = window > 0 ? std::make_optional<int64_t>(0) : std::nullopt;
    auto results = at::_flash_attention_forward(
        *q, *k, *v, *query_starts, *key_starts, longest_query, longest_key, 0.0, /*is_causal=*/true,
        /*return_debug_mask=*/false, /*scale=*/std::nullopt, left, right);
    *out = hone::give(std::get<0>(results));
  });
}
