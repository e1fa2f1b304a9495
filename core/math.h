// Elementary functions written without branches or calls, so that compilers vectorise loops over
// them; the same source serves host and device. Doubles use the standard library.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "core/dtype.h"

namespace quietformer::math {

template <class T>
inline constexpr T kInfinity = std::numeric_limits<T>::infinity();
template <class T>
inline constexpr T kNaN = std::numeric_limits<T>::quiet_NaN();

QF_HOST_DEVICE float bits_to_float(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

/// e^x for float, at most 2 ulp off (checked over all floats by a test); 0 below about -103.97,
/// +inf above 88.73, exact for -inf; NaN stays NaN.
QF_HOST_DEVICE float exp(float x) {
  // x = n ln 2 + r with |r| <= ln2/2; ln 2 in two parts so that n * high is exact (Cody and Waite).
  const float bounded = x < -104.0f ? -104.0f : (x > 89.0f ? 89.0f : x);
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float shifted = bounded * 1.44269504088896341f + kMagic;
  const float n = shifted - kMagic;
  const float r = (bounded - n * 0.693359375f) - n * -2.12194440e-4f;
  // e^r = 1 + r + r^2 p(r) on [-ln2/2, ln2/2]; minimax coefficients of Cephes' expf.
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  // Scale by 2^n in two steps: n reaches -150 (subnormal results) and 128 (overflow).
  const std::int32_t exponent = static_cast<std::int32_t>(n);
  const std::int32_t half = exponent >> 1;
  const float s1 = bits_to_float(static_cast<std::uint32_t>(half + 127) << 23);
  const float s2 = bits_to_float(static_cast<std::uint32_t>(exponent - half + 127) << 23);
  return x != x ? x : p * s1 * s2;
}

QF_HOST_DEVICE double exp(double x) {
  return std::exp(x);
}

/// e^(a x + b). On a GPU two instructions when a and b change less often than x: relative error up
/// to 2^-22 + (|a x| + |b|) 2^-23, and 0 below about -87.3.
QF_HOST_DEVICE float exp_affine(float x, float a, float b) {
#if defined(__CUDA_ARCH__)
  constexpr float kLog2e = 1.44269504088896341f;
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x * (a * kLog2e) + b * kLog2e));
  return result;
#else
  return exp(a * x + b);
#endif
}
QF_HOST_DEVICE double exp_affine(double x, double a, double b) {
  return exp(a * x + b);
}

QF_HOST_DEVICE float log(float x) {
  return std::log(x);
}
QF_HOST_DEVICE double log(double x) {
  return std::log(x);
}

/// 1 / (1 + e^-x) without overflow or cancellation in either tail.
template <class T>
QF_HOST_DEVICE T sigmoid(T x) {
  const T e = exp(-std::abs(x));  // in [0, 1]
  // Selects between values at hand: gcc turns a product that one side alone needs into a branch,
  // and then does not vectorise.
  return (x < T(0) ? e : T(1)) / (T(1) + e);
}

/// e^(a x + b), but no more than 2^31: four factors 1 + e^(a x + b) have a finite product, and
/// e / (1 + e) is 1 from 2^25 on. NaN stays NaN.
QF_HOST_DEVICE float exp_affine_capped(float x, float a, float b) {
#if defined(__CUDA_ARCH__)
  constexpr float kLog2e = 1.44269504088896341f;
  float result;
  asm("{ .reg .f32 t; min.NaN.f32 t, %1, 0f41F80000; ex2.approx.ftz.f32 %0, t; }"
      : "=f"(result)
      : "f"(x * (a * kLog2e) + b * kLog2e));
  return result;
#else
  const float result = exp(a * x + b);
  return result > 0x1p31f ? 0x1p31f : result;
#endif
}

/// 1 / x. On a GPU one instruction, 1 ulp off.
QF_HOST_DEVICE float reciprocal(float x) {
#if defined(__CUDA_ARCH__)
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#else
  return 1 / x;
#endif
}

/// sigmoid(a x + b). On a GPU four instructions; e^-(a x + b) overflows only where the result is 0
/// to float.
QF_HOST_DEVICE float sigmoid_affine(float x, float a, float b) {
#if defined(__CUDA_ARCH__)
  return reciprocal(1.0f + exp_affine(x, -a, -b));
#else
  return sigmoid(a * x + b);
#endif
}
QF_HOST_DEVICE double sigmoid_affine(double x, double a, double b) {
  return sigmoid(a * x + b);
}

/// x[i] = sigmoid(a x[i] + b), relative error below 1e-6 + (|a x| + |b|) 2^-23. The four share
/// one division, because a GPU divides as slowly as it takes exponentials: 5 such instructions,
/// not 8. A NaN among them makes all four NaN.
QF_HOST_DEVICE void sigmoid_affine(float (&x)[4], float a, float b) {
  float e[4];
  for (int i = 0; i < 4; ++i) e[i] = exp_affine_capped(x[i], a, b);
  // With d = 1 + e, sigmoid = e / d: over the denominator d0 d1 of a pair n0 = e0 d1, n1 = e1 d0.
  const float d0 = 1.0f + e[0], n0 = e[0] * e[1] + e[0], n1 = e[1] * d0, left = d0 + n1;
  const float d2 = 1.0f + e[2], n2 = e[2] * e[3] + e[2], n3 = e[3] * d2, right = d2 + n3;
  const float inverse = reciprocal(left * right);
  x[0] = n0 * (right * inverse), x[1] = n1 * (right * inverse);
  x[2] = n2 * (left * inverse), x[3] = n3 * (left * inverse);
}

/// tanh through e^(-2|x|); absolute error below 1e-7 in float.
template <class T>
QF_HOST_DEVICE T tanh(T x) {
  const T magnitude = x < T(0) ? -x : x;
  const T e = exp(T(-2) * magnitude);
  const T t = (T(1) - e) / (T(1) + e);
  return x < T(0) ? -t : t;
}
QF_HOST_DEVICE double tanh(double x) {
  return std::tanh(x);
}

/// ln(e^a + e^b), safe for any signs and for infinities.
template <class T>
QF_HOST_DEVICE T logaddexp(T a, T b) {
  const T high = a > b ? a : b, low = a > b ? b : a;
  if (!(high > -kInfinity<T>) || high == kInfinity<T>) return high;
  return high + std::log1p(std::exp(low - high));
}

}  // namespace quietformer::math
