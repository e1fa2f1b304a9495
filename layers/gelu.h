// GELU of one element, both forms, for host loops and kernels. Internal to layers/.
#pragma once

#include <cmath>
#include <numbers>

#include "core/dtype.h"
#include "core/math.h"
#include "layers/activation.h"

namespace quietformer {

/// Phi(x), the normal distribution function, and its density phi(x).
template <class T>
struct Normal {
  T cdf, density;
};

QF_HOST_DEVICE Normal<double> normal_at(double x) {
  constexpr double kDensity = 0.5 * std::numbers::inv_sqrtpi * std::numbers::sqrt2;
  return {0.5 * std::erfc(-x / std::numbers::sqrt2), kDensity * math::exp(-0.5 * x * x)};
}

/// std::erfc does not vectorise. With z = |x| / sqrt 2 and t = 1 / (1 + 0.3 z), erfc(z) e^(z^2) / t
/// is nearly a polynomial in t: degree 8, by Chebyshev interpolation over z in [0, 9.5], is off by
/// 2.4e-8 of the value at most. Small values in the left tail keep their relative precision.
QF_HOST_DEVICE Normal<float> normal_at(float x) {
  constexpr float kRootHalf = 0.707106781186547524f, kDensity = 0.398942280401432678f;
  const float magnitude = x < 0.0f ? -x : x;
  const float t = 1.0f / (1.0f + (0.3f * kRootHalf) * magnitude);
  float p = -1.304928155e-1f;
  p = p * t + 4.905715980e-1f;
  p = p * t - 5.233146561e-1f;
  p = p * t + 5.612462020e-1f;
  p = p * t - 1.047121410e-1f;
  p = p * t + 2.195671148e-1f;
  p = p * t + 1.470454191e-1f;
  p = p * t + 1.709141563e-1f;
  p = p * t + 1.691751026e-1f;
  const float decay = math::exp(-0.5f * x * x);
  const float tail = 0.5f * p * t * decay;
  return {x < 0.0f ? tail : 1.0f - tail, kDensity * decay};
}

/// The tanh form through 0.5 (1 + tanh(u)) = sigmoid(2u), which does not cancel for negative x.
template <class T>
struct TanhGelu {
  static constexpr T kLinear = T(2 * 0.797884560802865355879892119869);  // 2 sqrt(2/pi)
  static constexpr T kCubic = T(0.044715);
  static QF_HOST_DEVICE T value(T x) {
    return x * math::sigmoid(kLinear * (x + kCubic * x * x * x));
  }
  static QF_HOST_DEVICE T slope(T x) {
    const T s = math::sigmoid(kLinear * (x + kCubic * x * x * x));
    return s + x * s * (T(1) - s) * kLinear * (T(1) + T(3) * kCubic * x * x);
  }
};

template <class T>
struct ErfGelu {
  static QF_HOST_DEVICE T value(T x) { return x * normal_at(x).cdf; }
  static QF_HOST_DEVICE T slope(T x) {
    const Normal<T> normal = normal_at(x);
    return normal.cdf + x * normal.density;
  }
};

/// body.operator()<T, Form>() for the type and the form.
template <class Body>
void dispatch_gelu(DType dtype, GeluForm form, const Body& body) {
  dispatch_floating(dtype, [&]<class T>() {
    if (form == GeluForm::tanh)
      body.template operator()<T, TanhGelu<T>>();
    else
      body.template operator()<T, ErfGelu<T>>();
  });
}

}  // namespace quietformer
