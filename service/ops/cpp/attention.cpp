// Causal attention over documents that lie end to end in one flat batch: one autograd node for all of them.
//
// q [T, H, D], k and v [T, K, D] -> [T, H, D]; a document sees itself alone, or itself behind an earlier one it continues. On the CPU the documents go through
// LibTorch's flash kernel, neighbours of one length in one call; H / K query heads share a key head, which is repeated
// for the call because that kernel wants equal numbers. On CUDA one variable-length flash call does all of it.
// Paper: Dao 2023, arXiv:2307.08691.
#include <torch/csrc/autograd/custom_function.h>

#include <tuple>
#include <vector>

#include "guard.h"

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// `count` neighbouring documents of `len` tokens each, the first at `start`; or one that continues the `prefix_len` tokens
// from `prefix_start`.
struct Group {
  int64_t start, count, len, prefix_start, prefix_len;

  // [T, heads, D] -> [count, heads, len, D]
  at::Tensor of(const at::Tensor& flat) const {
    return flat.narrow(0, start, count * len).view({count, len, flat.size(1), flat.size(2)}).transpose(1, 2);
  }

  // [T, heads, D] -> [heads, prefix_len, D]
  at::Tensor prefix_of(const at::Tensor& flat) const {
    return flat.narrow(0, prefix_start, prefix_len).transpose(0, 1);
  }

  // What the queries see: [T, heads, D] -> [count, heads, prefix_len + len, D]
  at::Tensor seen_of(const at::Tensor& flat) const {
    return prefix_len == 0 ? of(flat) : at::cat({prefix_of(flat).unsqueeze(0), of(flat)}, 2);
  }

  // Puts gradients of what the queries see where they belong. A document's own part comes first, since documents that
  // continue it come later and add theirs.
  void put(const at::Tensor& flat, const at::Tensor& seen) const {
    of(flat).copy_(seen.narrow(2, prefix_len, len));
    if (prefix_len > 0) {
      prefix_of(flat).add_(seen.narrow(2, 0, prefix_len)[0]);
    }
  }
};

constexpr size_t kGroupNumbers = 5;

std::vector<Group> groups_of(const std::vector<int64_t>& flat) {
  std::vector<Group> groups;
  for (size_t i = 0; i + kGroupNumbers <= flat.size(); i += kGroupNumbers) {
    groups.push_back({flat[i], flat[i + 1], flat[i + 2], flat[i + 3], flat[i + 4]});
  }
  return groups;
}

// [n, K, L, D] -> [n, K * repeats, L, D]
at::Tensor repeat_heads(const at::Tensor& x, int64_t repeats) {
  if (repeats == 1) {
    return x;
  }
  const auto n = x.size(0), heads = x.size(1), len = x.size(2), dim = x.size(3);
  return x.unsqueeze(2).expand({n, heads, repeats, len, dim}).reshape({n, heads * repeats, len, dim});
}

// The reverse: gradients of the repeats add up.
at::Tensor sum_heads(const at::Tensor& x, int64_t repeats) {
  if (repeats == 1) {
    return x;
  }
  return x.reshape({x.size(0), x.size(1) / repeats, repeats, x.size(2), x.size(3)}).sum(2);
}

std::optional<at::Tensor> mask_of(const variable_list& masks, size_t index) {
  return masks[index].defined() ? std::make_optional(masks[index]) : std::nullopt;
}

struct DocumentAttention : public torch::autograd::Function<DocumentAttention> {
  static at::Tensor forward(
      AutogradContext* ctx,
      const at::Tensor& q,
      const at::Tensor& k,
      const at::Tensor& v,
      const variable_list& masks,
      const std::vector<int64_t>& flat_groups) {
    const auto groups = groups_of(flat_groups);
    const auto repeats = q.size(1) / k.size(1);
    auto out = at::empty(q.sizes(), q.options());
    variable_list saved{q, k, v, out};
    for (size_t i = 0; i < groups.size(); ++i) {
      const auto& group = groups[i];
      const auto mask = mask_of(masks, i);
      auto [part, logsumexp] = at::_scaled_dot_product_flash_attention_for_cpu(
          group.of(q), repeat_heads(group.seen_of(k), repeats), repeat_heads(group.seen_of(v), repeats), 0.0,
          /*is_causal=*/!mask.has_value(), mask);
      group.of(out).copy_(part);
      saved.push_back(logsumexp);
    }
    saved.insert(saved.end(), masks.begin(), masks.end());
    ctx->save_for_backward(saved);
    ctx->saved_data["groups"] = flat_groups;
    return out;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const auto &q = saved[0], &k = saved[1], &v = saved[2], &out = saved[3];
    const auto groups = groups_of(ctx->saved_data["groups"].toIntVector());
    const auto repeats = q.size(1) / k.size(1);
    const auto dout = grads[0].contiguous();
    auto dq = at::empty(q.sizes(), q.options());
    auto dk = at::empty(k.sizes(), k.options());
    auto dv = at::empty(v.sizes(), v.options());
    for (size_t i = 0; i < groups.size(); ++i) {
      const auto& group = groups[i];
      const auto& mask = saved[4 + groups.size() + i];
      auto [dq_part, dk_part, dv_part] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
          group.of(dout), group.of(q), repeat_heads(group.seen_of(k), repeats), repeat_heads(group.seen_of(v), repeats),
          group.of(out), saved[4 + i], 0.0, /*is_causal=*/!mask.defined(),
          mask.defined() ? std::make_optional(mask) : std::nullopt);
      group.of(dq).copy_(dq_part);
      group.put(dk, sum_heads(dk_part, repeats));
      group.put(dv, sum_heads(dv_part, repeats));
    }
    return {dq, dk, dv, at::Tensor(), at::Tensor()};
  }
};

void check(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  TORCH_CHECK(q.dim() == 3 && k.dim() == 3 && k.sizes() == v.sizes() && q.size(0) == k.size(0) && q.size(2) == k.size(2) &&
          k.size(1) > 0 && q.size(1) % k.size(1) == 0,
      "attention: q ", q.sizes(), ", k ", k.sizes(), " and v ", v.sizes(), " do not fit together");
}

}  // namespace

// `groups` is (start, count, len, prefix start, prefix length) for each run of documents of one length; `masks` one tensor or null for each.
extern "C" char* hone_document_attention(
    const at::Tensor* q,
    const at::Tensor* k,
    const at::Tensor* v,
    const int64_t* groups,
    const at::Tensor* const* masks,
    size_t num_groups,
    at::Tensor** out) {
  return hone::guarded([&] {
    check(*q, *k, *v);
    std::vector<int64_t> flat(groups, groups + kGroupNumbers * num_groups);
    int64_t total = 0;
    variable_list mask_list;
    size_t i = 0;
    for (const auto& group : groups_of(flat)) {
      TORCH_CHECK(group.start == total, "attention: document group ", i, " starts at ", group.start, ", not at ", total);
      TORCH_CHECK(group.prefix_len == 0 ||
              (group.count == 1 && masks[i] != nullptr && group.prefix_start + group.prefix_len <= group.start),
          "attention: document group ", i, " has a prefix, so it is one document with a mask, behind its prefix");
      total += group.count * group.len;
      mask_list.push_back(masks[i] == nullptr ? at::Tensor() : *masks[i]);
      ++i;
    }
    TORCH_CHECK(total == q->size(0), "attention: documents hold ", total, " tokens, the batch ", q->size(0));
    *out = hone::give(DocumentAttention::apply(*q, *k, *v, mask_list, flat));
  });
}

// The CUDA path. Starts are [documents + 1] int32 on the device; window 0 means none. Where a document has more keys than
// queries, the last of either are the same token. LibTorch has the derivative.
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
