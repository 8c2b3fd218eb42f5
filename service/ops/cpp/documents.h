// Documents that lie end to end in one flat batch, and causal attention inside each of them: the passes that the nodes of
// attention share. CPU only, for the types that have loops.
//
// q [T, H, D], k and v [T, K, D] -> [T, H, D]; H / K query heads share a key head. A document sees itself alone, or itself
// behind an earlier one that it continues. What it gets depends on its own tokens and on nothing else in the batch, whatever
// the number of threads: a task is the query heads that share a key head, or one query head where the document is long, and
// writes where no other does; sums over tasks are made afterwards, in order.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "guard.h"
#include "rows.h"

namespace hone {

class Documents {
 public:
  // (start, length, prefix start, prefix length) of each.
  Documents(const std::vector<int64_t>& numbers, int64_t window) {
    for (size_t i = 0; i + kNumbers <= numbers.size(); i += kNumbers) {
      list_.push_back({numbers[i], numbers[i + 1], numbers[i + 2], numbers[i + 3], window});
    }
  }

  static constexpr size_t kNumbers = 4;

  void check_cover(int64_t tokens) const {
    int64_t total = 0;
    for (const auto& document : list_) {
      TORCH_CHECK(document.len > 0 && document.start == total, "attention: a document of ", document.len,
          " tokens starts at ", document.start, ", not at ", total);
      TORCH_CHECK(document.prefix_len >= 0 && document.prefix_start >= 0 &&
              document.prefix_start + document.prefix_len <= document.start,
          "attention: the document at ", document.start, " is not behind its prefix");
      total += document.len;
    }
    TORCH_CHECK(total == tokens, "attention: documents hold ", total, " tokens, the batch ", tokens);
  }

  // Writes to `out`, and gives back what the backward pass wants beside it: [H, T].
  at::Tensor forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& out) const {
    const auto logsumexp =
        at::empty({q.size(1), q.size(0)}, q.options().dtype(compute_type(q.scalar_type())).requires_grad(false));
    with_type(q, [&](auto type) {
      using T = decltype(type);
      for_tasks(q.size(1), k.size(1), [&](const Task& task) {
        kernels::kernels<T>().attend(task.attention<T>(q, k, v, out, logsumexp));
      });
    });
    return logsumexp;
  }

  // Writes to dq, dk and dv.
  void backward(
      const at::Tensor& dout, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& out,
      const at::Tensor& logsumexp, const at::Tensor& dq, const at::Tensor& dk, const at::Tensor& dv) const {
    const auto wide = compute_type(q.scalar_type());
    const bool is_wide = wide == q.scalar_type();
    const auto options = k.options().dtype(wide).requires_grad(false);
    const Sums sums{is_wide ? dk : at::empty(k.sizes(), options), is_wide ? dv : at::empty(k.sizes(), options)};
    const auto shares = sums_of_others(q.size(1) / k.size(1), sums.dk);
    with_type(q, [&](auto type) {
      using T = decltype(type);
      for_tasks(q.size(1), k.size(1), [&](const Task& task) {
        const auto& share = shares[task.index][task.part];
        const auto gradient = task.gradient<T>(dout, dq, task.part == 0 ? sums : share.own, share.prefix);
        kernels::kernels<T>().attend_backward(task.attention<T>(q, k, v, out, logsumexp), gradient);
      });
    });
    add_others(shares, sums);
    if (!is_wide) {
      dk.copy_(sums.dk);
      dv.copy_(sums.dv);
    }
  }

 private:
  // From so many keys on each query head is a task of its own: short batches have tasks enough, and heads share the work of
  // making keys wide.
  static constexpr int64_t kLong = 1024;

  // Gradients of keys and values, both [T, K, D].
  struct Sums {
    at::Tensor dk, dv;

    void add(const Sums& other, int64_t start) const {
      dk.narrow(0, start, other.dk.size(0)).add_(other.dk);
      dv.narrow(0, start, other.dv.size(0)).add_(other.dv);
    }
  };

  // What a part of a document adds to tokens that another task writes.
  struct Share {
    Sums own, prefix;
  };

  // A part of the query heads that share a key head.
  struct Task {
    size_t index;
    kernels::Document document;
    int64_t key_head, part, first_head, heads;

    double cost() const {
      return double(document.prefix_len + document.len) * double(document.len) * double(heads);
    }

    template <typename T>
    static kernels::Head<T> head(const at::Tensor& x, int64_t index) {
      return {values<T>(x) + index * x.size(2), x.stride(0)};
    }
    template <typename T>
    static kernels::Head<const T> const_head(const at::Tensor& x, int64_t index) {
      return {values<T>(x) + index * x.size(2), x.stride(0)};
    }

    template <typename T>
    kernels::Attention<T> attention(
        const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& out,
        const at::Tensor& logsumexp) const {
      using W = typename kernels::Wide<T>::Type;
      const auto dim = q.size(2), tokens = q.size(0);
      return {
          document, heads, dim, W(1 / std::sqrt(double(dim))), const_head<T>(q, first_head), const_head<T>(k, key_head),
          const_head<T>(v, key_head), head<T>(out, first_head), {values<W>(logsumexp) + first_head * tokens, tokens}};
    }

    // `prefix` begins with the prefix's first token, `own` with token 0 or, where it is a share, with the document's.
    template <typename T>
    kernels::AttentionGradient<T> gradient(
        const at::Tensor& dout, const at::Tensor& dq, const Sums& own, const Sums& prefix) const {
      using W = typename kernels::Wide<T>::Type;
      const auto sum = [&](const at::Tensor& x, int64_t first) -> kernels::Head<W> {
        if (!x.defined()) {
          return {nullptr, 0};
        }
        const auto [values, stride] = head<W>(x, key_head);
        return {values - first * stride, stride};
      };
      const auto first = part == 0 ? 0 : document.start;
      return {const_head<T>(dout, first_head), head<T>(dq, first_head), sum(own.dk, first), sum(own.dv, first),
          sum(prefix.dk, 0), sum(prefix.dv, 0)};
    }
  };

  static int64_t parts(const kernels::Document& document, int64_t repeats) {
    return document.prefix_len + document.len >= kLong ? repeats : 1;
  }

  // The longest come first, so that threads end together; who computes what changes nothing.
  template <typename Body>
  void for_tasks(int64_t heads, int64_t key_heads, Body body) const {
    const auto repeats = heads / key_heads;
    std::vector<Task> tasks;
    for (size_t i = 0; i < list_.size(); ++i) {
      const auto count = repeats / parts(list_[i], repeats);
      for (int64_t head = 0; head < heads; head += count) {
        tasks.push_back({i, list_[i], head / repeats, head % repeats / count, head, count});
      }
    }
    std::stable_sort(tasks.begin(), tasks.end(), [](const Task& a, const Task& b) { return a.cost() > b.cost(); });
    std::atomic<size_t> next{0};
    at::parallel_for(0, std::min<int64_t>(at::get_num_threads(), tasks.size()), 1, [&](int64_t, int64_t) {
      for (size_t i = next++; i < tasks.size(); i = next++) {
        body(tasks[i]);
      }
    });
  }

  // Room for what each part of each document adds to its prefix, and all parts but the first to itself.
  std::vector<std::vector<Share>> sums_of_others(int64_t repeats, const at::Tensor& like) const {
    const auto room = [&](int64_t tokens) {
      const auto sums = at::empty({2, tokens, like.size(1), like.size(2)}, like.options());
      return Sums{sums[0], sums[1]};
    };
    std::vector<std::vector<Share>> shares;
    for (const auto& document : list_) {
      auto& of_document = shares.emplace_back();
      for (int64_t part = 0; part < parts(document, repeats); ++part) {
        of_document.push_back({
            part > 0 ? room(document.len) : Sums{}, document.prefix_len > 0 ? room(document.prefix_len) : Sums{}});
      }
    }
    return shares;
  }

  void add_others(const std::vector<std::vector<Share>>& shares, const Sums& sums) const {
    for (size_t i = 0; i < list_.size(); ++i) {
      for (const auto& share : shares[i]) {
        if (share.own.dk.defined()) {
          sums.add(share.own, list_[i].start);
        }
        if (share.prefix.dk.defined()) {
          sums.add(share.prefix, list_[i].prefix_start);
        }
      }
    }
  }

  std::vector<kernels::Document> list_;
};

}  // namespace hone
