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
#include "rows.h"

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

// The flash kernel of the CPU turns tiles of bfloat16 to and fro many times in its backward pass; in float32 it is quicker,
// copies included, and more exact.
at::Tensor computed(const at::Tensor& x) {
  return x.scalar_type() == at::kBFloat16 ? x.to(at::kFloat) : x;
}

std::optional<at::Tensor> mask_of(const variable_list& masks, size_t index) {
  return masks[index].defined() ? std::make_optional(computed(masks[index])) : std::nullopt;
}

// The passes over all groups, between nodes that differ in where queries, keys and values come from.
struct Documents {
  std::vector<Group> groups;
  variable_list masks;

  // Writes to `out`, and gives back what the backward pass wants of each group.
  variable_list forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& out) const {
    const auto repeats = q.size(1) / k.size(1);
    variable_list logsumexps;
    for (size_t i = 0; i < groups.size(); ++i) {
      const auto& group = groups[i];
      const auto mask = mask_of(masks, i);
      auto [part, logsumexp] = at::_scaled_dot_product_flash_attention_for_cpu(
          computed(group.of(q)), repeat_heads(computed(group.seen_of(k)), repeats),
          repeat_heads(computed(group.seen_of(v)), repeats), 0.0, /*is_causal=*/!mask.has_value(), mask);
      group.of(out).copy_(part);
      logsumexps.push_back(logsumexp);
    }
    return logsumexps;
  }

  // Writes to dq, dk and dv.
  void backward(
      const at::Tensor& dout, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& out,
      const variable_list& logsumexps, const at::Tensor& dq, const at::Tensor& dk, const at::Tensor& dv) const {
    const auto repeats = q.size(1) / k.size(1);
    for (size_t i = 0; i < groups.size(); ++i) {
      const auto& group = groups[i];
      const auto mask = mask_of(masks, i);
      auto [dq_part, dk_part, dv_part] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
          computed(group.of(dout)), computed(group.of(q)), repeat_heads(computed(group.seen_of(k)), repeats),
          repeat_heads(computed(group.seen_of(v)), repeats), computed(group.of(out)), logsumexps[i], 0.0,
          /*is_causal=*/!mask.has_value(), mask);
      group.of(dq).copy_(dq_part);
      group.put(dk, sum_heads(dk_part, repeats));
      group.put(dv, sum_heads(dv_part, repeats));
    }
  }

  // Both lists in one, for a node to save, and what is found in it again after the first `skip`.
  static variable_list joined(variable_list first, const variable_list& logsumexps, const variable_list& masks) {
    first.insert(first.end(), logsumexps.begin(), logsumexps.end());
    first.insert(first.end(), masks.begin(), masks.end());
    return first;
  }
  static std::pair<Documents, variable_list> found(
      const variable_list& saved, size_t skip, const std::vector<int64_t>& flat_groups) {
    const auto groups = groups_of(flat_groups);
    const auto logsumexps = saved.begin() + skip, masks = logsumexps + groups.size();
    return {{groups, variable_list(masks, saved.end())}, variable_list(logsumexps, masks)};
  }
};

struct DocumentAttention : public torch::autograd::Function<DocumentAttention> {
  static at::Tensor forward(
      AutogradContext* ctx,
      const at::Tensor& q,
      const at::Tensor& k,
      const at::Tensor& v,
      const variable_list& masks,
      const std::vector<int64_t>& flat_groups) {
    auto out = at::empty(q.sizes(), q.options());
    const auto logsumexps = Documents{groups_of(flat_groups), masks}.forward(q, k, v, out);
    ctx->save_for_backward(Documents::joined({q, k, v, out}, logsumexps, masks));
    ctx->saved_data["groups"] = flat_groups;
    return out;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const auto &q = saved[0], &k = saved[1], &v = saved[2], &out = saved[3];
    const auto [documents, logsumexps] = Documents::found(saved, 4, ctx->saved_data["groups"].toIntVector());
    auto dq = at::empty(q.sizes(), q.options());
    auto dk = at::empty(k.sizes(), k.options());
    auto dv = at::empty(v.sizes(), v.options());
    documents.backward(grads[0].contiguous(), q, k, v, out, logsumexps, dq, dk, dv);
    return {dq, dk, dv, at::Tensor(), at::Tensor()};
  }
};

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

// Rotation and attention from the stacked projection on: nothing is split on the way there and joined on the way back.
struct RotaryAttention : public torch::autograd::Function<RotaryAttention> {
  static at::Tensor forward(
      AutogradContext* ctx,
      const at::Tensor& input,
      const at::Tensor& cos,
      const at::Tensor& sin,
      int64_t queries,
      int64_t keys,
      const variable_list& masks,
      const std::vector<int64_t>& flat_groups) {
    const Heads heads{queries, keys, input.size(1) / (queries + 2 * keys)};
    const auto qkv = input.clone(at::MemoryFormat::Contiguous);
    heads.rotate(qkv, qkv, cos, sin, /*inverse=*/false);
    auto out = at::empty({qkv.size(0), queries, heads.dim}, qkv.options());
    const auto logsumexps =
        Documents{groups_of(flat_groups), masks}.forward(heads.q(qkv), heads.k(qkv), heads.v(qkv), out);
    ctx->save_for_backward(Documents::joined({qkv, out, cos, sin}, logsumexps, masks));
    ctx->saved_data["groups"] = flat_groups;
    ctx->saved_data["queries"] = queries;
    ctx->saved_data["keys"] = keys;
    return out;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const auto &qkv = saved[0], &out = saved[1], &cos = saved[2], &sin = saved[3];
    const auto [documents, logsumexps] = Documents::found(saved, 4, ctx->saved_data["groups"].toIntVector());
    const Heads heads{ctx->saved_data["queries"].toInt(), ctx->saved_data["keys"].toInt(), out.size(2)};
    auto dqkv = at::empty_like(qkv);
    documents.backward(
        grads[0].contiguous(), heads.q(qkv), heads.k(qkv), heads.v(qkv), out, logsumexps, heads.q(dqkv), heads.k(dqkv),
        heads.v(dqkv));
    heads.rotate(dqkv, dqkv, cos, sin, /*inverse=*/true);
    variable_list result(7);
    result[0] = dqkv;
    return result;
  }
};

void check(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  TORCH_CHECK(q.dim() == 3 && k.dim() == 3 && k.sizes() == v.sizes() && q.size(0) == k.size(0) && q.size(2) == k.size(2) &&
          k.size(1) > 0 && q.size(1) % k.size(1) == 0,
      "attention: q ", q.sizes(), ", k ", k.sizes(), " and v ", v.sizes(), " do not fit together");
}

// The masks as a list, once the groups are known to cover `tokens` in order.
variable_list checked_masks(const std::vector<int64_t>& flat, const at::Tensor* const* masks, int64_t tokens) {
  int64_t total = 0;
  variable_list list;
  size_t i = 0;
  for (const auto& group : groups_of(flat)) {
    TORCH_CHECK(group.start == total, "attention: document group ", i, " starts at ", group.start, ", not at ", total);
    TORCH_CHECK(group.prefix_len == 0 ||
            (group.count == 1 && masks[i] != nullptr && group.prefix_start + group.prefix_len <= group.start),
        "attention: document group ", i, " has a prefix, so it is one document with a mask, behind its prefix");
    total += group.count * group.len;
    list.push_back(masks[i] == nullptr ? at::Tensor() : *masks[i]);
    ++i;
  }
  TORCH_CHECK(total == tokens, "attention: documents hold ", total, " tokens, the batch ", tokens);
  return list;
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
    const std::vector<int64_t> flat(groups, groups + kGroupNumbers * num_groups);
    *out = hone::give(DocumentAttention::apply(*q, *k, *v, checked_masks(flat, masks, q->size(0)), flat));
  });
}

// The same from qkv [T, (H + 2 K) D] on, whose queries and keys are rotated by cos and sin [T, R / 2].
extern "C" char* hone_rotary_attention(
    const at::Tensor* qkv,
    const at::Tensor* cos,
    const at::Tensor* sin,
    int64_t queries,
    int64_t keys,
    const int64_t* groups,
    const at::Tensor* const* masks,
    size_t num_groups,
    at::Tensor** out) {
  return hone::guarded([&] {
    const auto count = queries + 2 * keys;
    TORCH_CHECK(qkv->dim() == 2 && keys > 0 && queries % keys == 0 && qkv->size(1) % count == 0,
        "attention: ", qkv->sizes(), " holds no ", queries, " query heads and ", keys, " key and value heads");
    TORCH_CHECK(cos->dim() == 2 && cos->sizes() == sin->sizes() && cos->size(0) == qkv->size(0) &&
            2 * cos->size(1) <= qkv->size(1) / count && cos->scalar_type() == qkv->scalar_type() &&
            sin->scalar_type() == qkv->scalar_type() && cos->is_contiguous() && sin->is_contiguous(),
        "attention: angles ", cos->sizes(), " do not fit ", qkv->sizes());
    const std::vector<int64_t> flat(groups, groups + kGroupNumbers * num_groups);
    *out = hone::give(RotaryAttention::apply(
        *qkv, *cos, *sin, queries, keys, checked_masks(flat, masks, qkv->size(0)), flat));
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
