#include "core/half.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace quietformer {
namespace {

TEST(Half, WidensExactly) {
  EXPECT_EQ(bf16_to_float(0x3F80), 1.0f);
  EXPECT_EQ(bf16_to_float(0xC049), -3.140625f);
  EXPECT_EQ(f16_to_float(0x3C00), 1.0f);
  EXPECT_EQ(f16_to_float(0xC248), -3.140625f);
  EXPECT_EQ(f16_to_float(0x7BFF), 65504.0f);
  EXPECT_EQ(f16_to_float(0x0001), 0x1p-24f);
  EXPECT_EQ(f16_to_float(0x83FF), -1023 * 0x1p-24f);
  EXPECT_EQ(f16_to_float(0xFC00), -std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(f16_to_float(0x7E00)));
  EXPECT_TRUE(std::signbit(f16_to_float(0x8000)));
  // Every finite half against its definition, in order.
  for (int bits = 0; bits < 0x7C00; ++bits) {
    const int exponent = bits >> 10, fraction = bits & 0x3FF;
    const double value =
        exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
    ASSERT_EQ(double(f16_to_float(std::uint16_t(bits))), value) << bits;
    ASSERT_EQ(double(f16_to_float(std::uint16_t(bits | 0x8000))), -value) << bits;
  }
}

TEST(Half, SixteenBitFloatsComeBackAndRoundToTheNearestEven) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    const float value = f16_to_float(half);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(f16_to_float(float_to_f16(value)))) << bits;
      continue;
    }
    ASSERT_EQ(float_to_f16(value), half) << bits;
    const std::uint16_t magnitude = half & 0x7FFF;
    if (magnitude >= 0x7BFF) continue;
    // Half way to the next number away from zero the even one of both wins.
    const float next = f16_to_float(static_cast<std::uint16_t>(half + 1));
    const float middle = value + (next - value) / 2;
    ASSERT_EQ(float_to_f16(middle), half % 2 == 0 ? half : half + 1) << bits;
    ASSERT_EQ(float_to_f16(std::nextafter(middle, value)), half) << bits;
    ASSERT_EQ(float_to_f16(std::nextafter(middle, next)), half + 1) << bits;
  }
  EXPECT_EQ(float_to_f16(65519.0f), 0x7BFF);
  EXPECT_EQ(float_to_f16(65520.0f), 0x7C00);
  EXPECT_EQ(float_to_f16(-1e30f), 0xFC00);
}

TEST(Half, NarrowsToTheNearestAndTiesToEven) {
  // Every bf16 number comes back, and a step of a quarter of its last place does not move it.
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = bf16_to_float(static_cast<std::uint16_t>(bits));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(bf16_to_float(float_to_bf16(value)))) << bits;
      continue;
    }
    ASSERT_EQ(float_to_bf16(value), bits);
    if (std::isinf(value)) continue;
    const auto plus = [&](std::uint32_t part) { return std::bit_cast<float>(bits << 16 | part); };
    ASSERT_EQ(float_to_bf16(plus(0x7FFF)), bits);
    ASSERT_EQ(float_to_bf16(plus(0x8001)), bits + 1);
    ASSERT_EQ(float_to_bf16(plus(0x8000)), bits + (bits & 1));  // to even
  }
  EXPECT_EQ(float_to_bf16(std::numeric_limits<float>::max()), 0x7F80);  // infinity
  // The least NaN: rounding by itself would make it infinite.
  EXPECT_TRUE(std::isnan(bf16_to_float(float_to_bf16(std::bit_cast<float>(0x7F800001u)))));
}

}  // namespace
}  // namespace quietformer
