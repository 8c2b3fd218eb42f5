// Small things about tensors that tch does not offer.
#include <ATen/Version.h>

#include <cstdlib>

#include "guard.h"

extern "C" void hone_free(char* message) {
  std::free(message);
}

// What the loaded LibTorch was built from and with, as text that Rust frees with `hone_free`.
extern "C" char* hone_build_settings(char** text) {
  return hone::guarded([&] { *text = strdup(at::show_config().c_str()); });
}

// The backward pass from `tensor`, whose own gradient is `gradient`.
extern "C" char* hone_backward(const at::Tensor* tensor, const at::Tensor* gradient) {
  return hone::guarded([&] {
    TORCH_CHECK(tensor->sizes() == gradient->sizes(),
        "backward: tensor ", tensor->sizes(), " and gradient ", gradient->sizes(), " differ");
    tensor->backward(*gradient);
  });
}

// Makes `grad` the place where the gradient of the leaf `tensor` is added up.
extern "C" char* hone_set_grad(const at::Tensor* tensor, const at::Tensor* grad) {
  return hone::guarded([&] {
    TORCH_CHECK(tensor->is_leaf() && tensor->requires_grad(), "set_grad: not a leaf that requires a gradient");
    TORCH_CHECK(tensor->sizes() == grad->sizes() && tensor->scalar_type() == grad->scalar_type(),
        "set_grad: tensor ", tensor->sizes(), " and gradient ", grad->sizes(), " differ");
    tensor->mutable_grad() = *grad;
  });
}
