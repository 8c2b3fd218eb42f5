// Single numbers: between the types of tensors and those that are computed in, and the exponential function.
#pragma once

#include <cmath>
#include <cstring>
#include <limits>

#include "kernels.h"

namespace hone::kernels::HONE_LEVEL {
namespace {

inline float widen(float x) {
  return x;
}
inline double widen(double x) {
  return x;
}
inline float widen(Bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float wide;
  std::memcpy(&wide, &bits, sizeof wide);
  return wide;
}

template <typename T>
inline T narrow(typename Wide<T>::Type x) {
  return x;
}
template <>
inline Bf16 narrow<Bf16>(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  // To the nearest, ties to even; what is no number stays none.
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return {static_cast<uint16_t>(x == x ? rounded : 0x7fc0)};
}

// x as the type holds it.
template <typename T>
inline typename Wide<T>::Type rounded(typename Wide<T>::Type x) {
  return widen(narrow<T>(x));
}

// e^x within 2 units in the last place, by e^x = 2^n e^r with |r| <= ln 2 / 2 and the polynomial of Cephes' expf.
inline float exponential(float x) {
  const float bounded = x > 88.0f ? 88.0f : (x < -87.0f ? -87.0f : x);
  const float n = std::floor(bounded * 1.44269504f + 0.5f);
  const float r = (bounded - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const uint32_t bits = static_cast<uint32_t>(static_cast<int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  const float value = p * power;
  return x < -87.0f ? 0.0f : (x > 88.0f ? std::numeric_limits<float>::infinity() : (x == x ? value : x));
}
inline double exponential(double x) {
  return std::exp(x);
}

}  // namespace
}  // namespace hone::kernels::HONE_LEVEL
