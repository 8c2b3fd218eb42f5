// LibTorch's attention held to its memory-efficient kernel, which CUDA alone has: also in float32, and with masks.
// Paper: Rabe and Staats 2021, arXiv:2112.05682.
#include <ATen/Context.h>

#include "guard.h"

namespace efficient {
namespace {

// Lets LibTorch choose no other kernel while this lives. The choice is the process's; one thread trains.
class OnlyEfficient {
 public:
  OnlyEfficient() {
    set(false, false, false, true);
  }
  ~OnlyEfficient() {
    set(flash_, math_, cudnn_, efficient_);
  }
  OnlyEfficient(const OnlyEfficient&) = delete;
  OnlyEfficient& operator=(const OnlyEfficient&) = delete;

 private:
  static void set(bool flash, bool math, bool cudnn, bool efficient) {
    auto& context = at::globalContext();
    context.setSDPUseFlash(flash);
    context.setSDPUseMath(math);
    context.setSDPUseCuDNN(cudnn);
    context.setSDPUseMemEfficient(efficient);
  }

  const bool flash_ = at::globalContext().userEnabledFlashSDP();
  const bool math_ = at::globalContext().userEnabledMathSDP();
  const bool cudnn_ = at::globalContext().userEnabledCuDNNSDP();
  const bool efficient_ = at::globalContext().userEnabledMemEfficientSDP();
};

}  // namespace
}  // namespace efficient

// q, k, v [N, H, L, D] with as many heads each; `mask` is null or added to the scores.
extern "C" char* hone_efficient_attention(
    const at::Tensor* q, const at::Tensor* k, const at::Tensor* v, const at::Tensor* mask, bool is_causal,
    at::Tensor** out) {
  return hone::guarded([&] {
    const efficient::OnlyEfficient only;
    *out = hone::give(at::scaled_dot_product_attention(*q, *k, *v, hone::optional(mask), 0.0, is_causal));
  });
}
