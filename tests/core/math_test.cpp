#include "core/math.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace quietformer {
namespace {

TEST(Math, ExpIsWithinTwoUlpOverAllFloats) {
  // Every 97th float of both signs covers every exponent and all low mantissa patterns.
  double worst = 0;
  for (std::uint64_t bits = 0; bits < (1ull << 32); bits += 97) {
    const float x = math::bits_to_float(static_cast<std::uint32_t>(bits));
    const float got = math::exp(x);
    if (std::isnan(x)) {
      ASSERT_TRUE(std::isnan(got));
      continue;
    }
    const double want = std::exp(static_cast<double>(x));
    if (want > 3.4028235677973366e38) {
      ASSERT_TRUE(std::isinf(got)) << x;
    } else {
      const float nearest = static_cast<float>(want);
      const double ulp = std::max(double(std::nextafter(nearest, INFINITY)) - nearest, 0x1p-149);
      if (std::isinf(ulp)) continue;
      worst = std::max(worst, std::abs(got - want) / ulp);
    }
  }
  EXPECT_LT(worst, 2.0);
  EXPECT_EQ(math::exp(-INFINITY), 0.0f);
  EXPECT_EQ(math::exp(INFINITY), INFINITY);
  EXPECT_EQ(math::exp(0.0f), 1.0f);
}

TEST(Math, SigmoidKeepsRelativePrecisionInBothTails) {
  for (float x = -87; x <= 87; x += 0.37f) {
    const double want = 1 / (1 + std::exp(-double(x)));
    EXPECT_NEAR(math::sigmoid(x), want, 4e-7 * want) << x;
  }
  EXPECT_EQ(math::sigmoid(-INFINITY), 0.0f);
  EXPECT_EQ(math::sigmoid(INFINITY), 1.0f);
}

TEST(Math, FourSigmoidsShareADivisionAndNothingElse) {
  // Neighbours as far apart as scores get: each keeps its own relative precision.
  const float far[] = {-INFINITY, -85, -20, -6.9f, 0, 0.5f, 15, 30, 85, 1e30f, INFINITY};
  const float a = 0.5f, b = -0.25f;
  for (float x0 : far)
    for (float x1 : far)
      for (float x2 : far)
        for (float x3 : {-40.0f, 3.0f, 40.0f}) {
          const float x[] = {x0, x1, x2, x3};
          float got[] = {x0, x1, x2, x3};
          math::sigmoid_affine(got, a, b);
          for (int i = 0; i < 4; ++i) {
            const double want = 1 / (1 + std::exp(-(double(a) * x[i] + b)));
            ASSERT_NEAR(got[i], want, 1e-6 * want) << i << ": " << x[i];
          }
        }
  float nan[] = {0, NAN, 1, 2};
  math::sigmoid_affine(nan, a, b);
  EXPECT_TRUE(std::isnan(nan[1]));
}

TEST(Math, Tanh) {
  for (float x = -20; x <= 20; x += 0.01f) EXPECT_NEAR(math::tanh(x), std::tanh(double(x)), 1.5e-7);
}

TEST(Math, LogAddExpIsSafeAtTheEnds) {
  EXPECT_EQ(math::logaddexp(-math::kInfinity<double>, -math::kInfinity<double>), -INFINITY);
  EXPECT_EQ(math::logaddexp(-math::kInfinity<double>, 3.0), 3.0);
  EXPECT_EQ(math::logaddexp(1000.0, -1000.0), 1000.0);
  EXPECT_NEAR(math::logaddexp(-700.0, -700.0), -700 + std::log(2), 1e-12);
}

}  // namespace
}  // namespace quietformer
