// Central moments of a lot of numbers, exactly mergeable.
//
// One pass over memory: blocks that fit the first-level cache are centred on their own mean in
// double (read twice, the second time from the cache) and merged pairwise, so a large offset or a
// heavy tail costs no accuracy. Raw power sums never appear. Merging formulas: Pebay, "Formulas for
// robust, one-pass parallel computation of covariances and arbitrary-order statistical moments",
// Sandia report SAND2008-6212.
#pragma once

#include <cstdint>
#include <limits>

#include "core/context.h"
#include "core/tensor.h"

namespace quietformer {

/// What counts as an outlier while moments are taken.
struct OutlierLimits {
  double magnitude = 6;  // |x| > 6: the criterion of LLM.int8 (Dettmers et al., 2022)
  double low = -std::numeric_limits<double>::infinity();  // x < low or x > high: beyond some number
  double high = std::numeric_limits<double>::infinity();  // of sigmas, known from elsewhere
};

/// Population moments (divided by the count). Statistics of no numbers are NaN, and so are skewness
/// and kurtosis of a constant; a NaN or infinity among the numbers makes the moments NaN.
struct Moments {
  std::int64_t count = 0;
  double mean = 0;
  double m2 = 0, m3 = 0, m4 = 0;      // sums of (x - mean)^2, ^3, ^4
  double max_abs = 0;                 // NaN if any number is
  std::int64_t beyond_magnitude = 0;  // |x| > limits.magnitude
  std::int64_t outside = 0;           // x < limits.low or x > limits.high

  double average() const;   // mean, or NaN for no numbers
  double variance() const;  // m2 / count
  double skewness() const;
  double kurtosis() const;  // excess: 0 for a normal distribution

  /// Becomes the moments of both sets of numbers. Exact but for rounding; the order matters only in
  /// the last bits.
  void merge(const Moments& other);
};

/// `rows` rows of `width` numbers, `stride` apart; with `keep` (one byte per row) only rows whose
/// byte is not zero. Serial, no allocation. T is float or double.
template <class T>
struct ValueRows {
  const T* data = nullptr;
  std::int64_t rows = 0;
  std::int64_t width = 0;
  std::int64_t stride = 0;
  const std::uint8_t* keep = nullptr;
};
template <class T>
Moments moments_of(const ValueRows<T>& rows, const OutlierLimits& limits);

/// All numbers of a contiguous f32 or f64 tensor, threaded; the result does not depend on threads.
Moments moments_of(const Context& ctx, const Tensor& tensor, const OutlierLimits& limits);

}  // namespace quietformer
