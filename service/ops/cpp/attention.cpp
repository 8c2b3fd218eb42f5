// Causal attention over documents that lie end to end in one flat batch: one autograd node for all of them.
//
// q [T, H, D], k and v [T, K, D] -> [T, H, D]; a document sees itself alone. On the CPU the documents go through
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

// `count` neighbouring documents of `len` tokens each, the first at `start`.
struct Group {
  int64_t start, count, len;

  // [T, heads, D] -> [count, heads, len, D]
  at::Tensor of(const at::Tensor& flat) const {
    return flat.narrow(0, start, count * len).view({count, len, flat.size(1), flat.size(2)}).transpose(1, 2);
  }
};

std::vector<Group> groups_of(const std::vector<int64_t>& flat) {
  std::vector<Group> groups;
  for (size_t i = 0; i + 2 < flat.size(); i += 3) {
    groups.push_back({flat[i], flat[i + 1], flat[i + 2]});
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
          group.of(q), repeat_heads(group.of(k), repeats), repeat_heads(group.of(v), repeats), 0.0,
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
          group.of(dout), group.of(q), repeat_heads(group.of(k), repeats), repeat_heads(group.of(v), repeats),
          group.of(out), saved[4 + i], 0.0, /*is_causal=*/!mask.defined(),
          mask.defined() ? std::make_optional(mask) : std::nullopt);
      group.of(dq).copy_(dq_part);
      group.of(dk).copy_(sum_heads(dk_part, repeats));
      group.of(dv).copy_(sum_heads(dv_part, repeats));
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

// `groups` is (start, count, len) for each run of documents of one length; `masks` one tensor or null for each.
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
    std::vector<int64_t> flat(groups, groups + 3 * num_groups);
    int64_t total = 0;
    variable_list mask_list;
    for (size_t i = 0; i < num_groups; ++i) {
      TORCH_CHECK(flat[3 * i] == total, "attention: document group ", i, " starts at ", flat[3 * i], ", not at ", total);
      total += flat[3 * i + 1] * flat[3 * i + 2];
      mask_list.push_back(masks[i] == nullptr ? at::Tensor() : *masks[i]);
    }
    TORCH_CHECK(total == q->size(0), "attention: documents hold ", total, " tokens, the batch ", q->size(0));
    *out = hone::give(DocumentAttention::apply(*q, *k, *v, mask_list, flat));
  });
}

// The CUDA path. `starts` [documents + 1] int32 on the device; window 0 means none. LibTorch has the derivative.
extern "C" char* hone_varlen_flash(
    const at::Tensor* q,
    const at::Tensor* k,
    const at::Tensor* v,
    const at::Tensor* starts,
    int64_t longest,
    int64_t window,
    at::Tensor** out) {
  return hone::guarded([&] {
    check(*q, *k, *v);
    // Token i sees j when i - window < j <= i: window - 1 to its left.
    const auto left = window > 0 ? std::make_optional(window - 1) : std::nullopt;
    const auto right = window > 0 ? std::make_optional<int64_t>(0) : std::nullopt;
    auto results = at::_flash_attention_forward(
        *q, *k, *v, *starts, *starts, longest, longest, 0.0, /*is_causal=*/true, /*return_debug_mask=*/false,
        /*scale=*/std::nullopt, left, right);
    *out = hone::give(std::get<0>(results));
  });
}
