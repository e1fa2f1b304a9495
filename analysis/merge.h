// The arithmetic of Moments that the CPU and GPUs share. Internal to analysis/.
#pragma once

#include <cmath>

#include "analysis/moments.h"
#include "core/dtype.h"

namespace quietformer {

/// Moments::merge.
QF_HOST_DEVICE void merge_moments(Moments& into, const Moments& other) {
  if (other.count == 0) return;
  if (into.count == 0) {
    into = other;
    return;
  }
  const double na = static_cast<double>(into.count), nb = static_cast<double>(other.count),
               n = na + nb;
  const double d = other.mean - into.mean;
  const double a = na / n, b = nb / n;  // shares; every term below is written with them
  const double d2 = d * d;
  into.m4 += other.m4 + d2 * d2 * a * b * n * (a * a - a * b + b * b) +
             6 * d2 * (a * a * other.m2 + b * b * into.m2) + 4 * d * (a * other.m3 - b * into.m3);
  into.m3 += other.m3 + d2 * d * a * b * n * (a - b) + 3 * d * (a * other.m2 - b * into.m2);
  into.m2 += other.m2 + d2 * a * b * n;
  into.mean += d * b;
  into.count += other.count;
  const bool known = into.max_abs == into.max_abs;  // NaN stays
  if (!(other.max_abs <= into.max_abs) && known) into.max_abs = other.max_abs;
  into.beyond_magnitude += other.beyond_magnitude;
  into.outside += other.outside;
}

// Of at least one number.
QF_HOST_DEVICE double variance_of(const Moments& m) {
  return m.m2 / static_cast<double>(m.count);
}
QF_HOST_DEVICE double skewness_of(const Moments& m) {
  return std::sqrt(static_cast<double>(m.count) / m.m2) * (m.m3 / m.m2);
}
QF_HOST_DEVICE double kurtosis_of(const Moments& m) {
  // Divided twice: m2 * m2 would underflow for numbers around 1e-80.
  return (m.m4 / m.m2) * (static_cast<double>(m.count) / m.m2) - 3;
}

}  // namespace quietformer
