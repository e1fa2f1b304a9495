// Gradient checks by central differences of fourth order, in f64.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <string>

#include "tests/support/tensors.h"

namespace quietformer::test {

struct DifferenceOptions {
  double step = 1e-4;
  /// Allowed error relative to the largest gradient of the tensor (or to `floor` if that is
  /// larger).
  double tolerance = 1e-6;
  double floor = 1e-3;
  /// Smallest legal value of an element: closer than two steps to it, a one-sided difference is
  /// taken.
  double minimum = -std::numeric_limits<double>::infinity();
  /// At most this many elements are tried, spread evenly over the tensor.
  std::int64_t elements = 1 << 20;
};

/// Compares `gradient` with central differences of `loss` over the elements of x (any strides; the
/// elements are changed one at a time and put back).
inline void expect_gradient(const std::string& what, const Tensor& x, const Tensor& gradient,
                            const std::function<double()>& loss, DifferenceOptions options = {}) {
  ASSERT_EQ(x.dtype, DType::f64) << what;
  ASSERT_TRUE(x.shape == gradient.shape) << what;
  const double scale = std::max(options.floor, max_abs(gradient));
  ASSERT_TRUE(std::isfinite(scale)) << what;
  const std::int64_t stride = std::max<std::int64_t>(1, x.count() / options.elements);
  for (std::int64_t i = 0; i < x.count(); i += stride) {
    // Where gradients are large so is the curvature: keep the change of the loss below 1e-3 or so.
    const double value = get(x, i), h = std::min(options.step, 1e-3 / scale);
    const auto at = [&](double moved) {
      set(x, i, moved);
      return loss();
    };
    const double difference =
        value - 2 * h >= options.minimum
            ? (8 * (at(value + h) - at(value - h)) - (at(value + 2 * h) - at(value - 2 * h))) /
                  (12 * h)
            : (-25 * at(value) + 48 * at(value + h) - 36 * at(value + 2 * h) +
               16 * at(value + 3 * h) - 3 * at(value + 4 * h)) /
                  (12 * h);
    set(x, i, value);
    ASSERT_NEAR(get(gradient, i), difference, options.tolerance * scale)
        << what << ", element " << i << " of " << to_string(x.shape);
  }
}

}  // namespace quietformer::test
