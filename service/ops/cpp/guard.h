// What every operator of this folder shares: tensors cross the border as pointers, exceptions as text.
//
// An exception must never unwind into Rust. Each entry point runs its body inside `guarded`, which gives back null, or
// the message as a string that Rust frees with `hone_free`.
#pragma once

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <cstdint>
#include <cstring>
#include <exception>
#include <optional>

namespace hone {

template <typename Body>
char* guarded(Body body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const c10::Error& error) {
    return strdup(error.what_without_backtrace());
  } catch (const std::exception& error) {
    return strdup(error.what());
  } catch (...) {
    return strdup("an exception that is no std::exception");
  }
}

// Rust owns what it is given.
inline at::Tensor* give(at::Tensor tensor) {
  return new at::Tensor(std::move(tensor));
}

inline std::optional<at::Tensor> optional(const at::Tensor* tensor) {
  return tensor == nullptr ? std::nullopt : std::make_optional(*tensor);
}

// Float32 for the half precisions; float64 stays, so that gradients can be checked in it.
inline at::ScalarType compute_type(at::ScalarType type) {
  return type == at::kDouble ? at::kDouble : at::kFloat;
}

}  // namespace hone
