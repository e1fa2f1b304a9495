// Grids, what rounding to them does, and ranges of known distributions.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "analysis/quantization_range.h"
#include "tests/support/tensors.h"

namespace quietformer {
namespace {

using test::get;
using test::set;

OwnedTensor rounded(const Tensor& x, const Grid& grid, const Context& ctx = {}) {
  OwnedTensor y(x.dtype, x.shape);
  fake_quantize(ctx, y, x, grid);
  return y;
}

double rounded(double x, const Grid& grid) {
  return get(rounded(test::from_values(DType::f64, {1}, {x}), grid), 0);
}

double squared_error(const Tensor& x, const Grid& grid) {
  const OwnedTensor y = rounded(x, grid);
  double sum = 0;
  for (std::int64_t i = 0; i < x.count(); ++i) sum += std::pow(get(x, i) - get(y, i), 2);
  return sum / double(x.count());
}

/// Each of `batches` counted as a batch.
ValueDistribution count(const std::vector<Tensor>& batches, const Context& ctx = {}) {
  const OwnedTensor bins(DType::i64, {kValueBins});
  const OwnedTensor extremes(DType::i32, {std::int64_t(batches.size()), 2});
  reset(ctx, {bins, extremes});
  for (std::size_t i = 0; i < batches.size(); ++i)
    observe(ctx, {bins, extremes.view().slice(0, std::int64_t(i), 1)}, batches[i]);
  return {bins, extremes};
}

/// Evenly spread over [low, high], in an order that mixes them.
OwnedTensor uniform(double low, double high, std::int64_t count) {
  OwnedTensor x(DType::f32, {count});
  for (std::int64_t i = 0; i < count; ++i)
    set(x, i, low + (high - low) * (double(i * 7919 % count) + 0.5) / double(count));
  return x;
}

TEST(Quantization, SymmetricInt8GoesFromMinus127To127) {
  const Grid grid = symmetric_grid(127, 8);
  EXPECT_EQ(grid.first, -127);
  EXPECT_EQ(grid.last, 127);
  EXPECT_EQ(grid.zero, 0);
  EXPECT_EQ(grid.scale, 1);
  EXPECT_EQ(rounded(-1000, grid), -127);
  EXPECT_EQ(rounded(1000, grid), 127);
  EXPECT_EQ(rounded(2.5, grid), 2);  // ties to even
  EXPECT_EQ(rounded(-3.5, grid), -4);
  EXPECT_EQ(symmetric_grid(1, 2).last, 1);
  EXPECT_EQ(symmetric_grid(1, 16).last, 32767);
}

TEST(Quantization, ZeroIsExactAndTheRangeIsKept) {
  for (const int bits : {2, 3, 4, 8, 15, 16})
    for (const auto& [low, high] : {std::pair(-1.0, 1.0),
                                    {-0.3, 7.7},
                                    {-1e-30, 1e30},
                                    {2.0, 3.0},
                                    {-5.0, -4.0},
                                    {0.0, 0.0},
                                    {-3.4e38, 3.4e38},
                                    {1e-42, 1e-40}}) {
      const Grid grid = asymmetric_grid(low, high, bits);
      EXPECT_EQ(grid.first, 0);
      EXPECT_EQ(grid.last, (1 << bits) - 1);
      EXPECT_EQ(rounded(0, grid), 0);
      EXPECT_TRUE(std::isfinite(grid.scale) && std::isfinite(1 / grid.scale)) << low << " " << high;
      if (high - low < 1e-37) continue;
      EXPECT_NEAR(grid.low(), std::min(low, 0.0), 0.51 * grid.scale) << low << " " << high;
      EXPECT_NEAR(grid.high(), std::max(high, 0.0), 0.51 * grid.scale) << low << " " << high;
    }
  const OwnedTensor zeros(DType::f32, {5});
  EXPECT_TRUE(test::same_bits(rounded(zeros, symmetric_grid(0, 8)), zeros));
}

TEST(Quantization, RoundsToTheNearestAndClips) {
  const Grid grid = asymmetric_grid(-1.3, 2.9, 4);
  for (double x = -3; x < 5; x += 0.013) {
    const double y = rounded(x, grid);
    const double q = y / double(grid.scale);
    EXPECT_NEAR(q, std::rint(q), 1e-9);
    if (x < grid.low())
      EXPECT_EQ(y, grid.low());
    else if (x > grid.high())
      EXPECT_EQ(y, grid.high());
    else
      EXPECT_LE(std::abs(x - y), 0.5001 * double(grid.scale)) << x;
  }
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  EXPECT_TRUE(std::isnan(rounded(std::nan(""), grid)));
  EXPECT_EQ(rounded(kInfinity, grid), grid.high());
  EXPECT_EQ(rounded(-kInfinity, grid), grid.low());
}

TEST(Quantization, InPlaceByRowsAndWithAnyNumberOfThreads) {
  const Grid grid = asymmetric_grid(-2, 2, 5);
  const OwnedTensor x = test::normal(DType::f32, {300, 90}, 1);
  const OwnedTensor want = rounded(x, grid);
  Context ctx;
  ctx.threads = 3;
  EXPECT_TRUE(test::same_bits(rounded(x, grid, ctx), want));
  const OwnedTensor in_place = test::copy_of(x);
  const Tensor part = in_place.view().slice(1, 20, 30);
  fake_quantize(ctx, part, part, grid);
  for (std::int64_t r = 0; r < 300; ++r)
    for (std::int64_t c = 0; c < 90; ++c)
      ASSERT_EQ(get(in_place, r * 90 + c),
                get(c >= 20 && c < 50 ? want.view() : x.view(), r * 90 + c));
}

TEST(QuantizationRange, ExtremesAndTheirRunningAverages) {
  const OwnedTensor a = test::from_values(DType::f32, {3}, {-1, 0.5, 4});
  const OwnedTensor b = test::from_values(DType::f32, {2, 2}, {-3, 1, 2, 2});
  const OwnedTensor c = test::from_values(DType::f64, {1}, {8});
  const ValueDistribution values = count({a, b, c});
  EXPECT_EQ(values.count(), 8);
  EXPECT_EQ(values.extremes().low, -3);
  EXPECT_EQ(values.extremes().high, 8);
  const ValueRange running = values.running_extremes(0.75);
  EXPECT_DOUBLE_EQ(running.low, 0.75 * (0.75 * -1 + 0.25 * -3) + 0.25 * 8);
  EXPECT_DOUBLE_EQ(running.high, 0.75 * (0.75 * 4 + 0.25 * 2) + 0.25 * 8);
}

TEST(QuantizationRange, PercentilesOfKnownDistributions) {
  const OwnedTensor flat = uniform(-1, 3, 100'000);
  const ValueRange range = count({flat}).percentiles(0.99);
  EXPECT_NEAR(range.low, -0.96, 1e-3);
  EXPECT_NEAR(range.high, 2.96, 1e-3);
  const ValueDistribution normal = count({test::normal(DType::f32, {400'000}, 3)});
  EXPECT_NEAR(normal.percentiles(0.999).high, 3.0902, 0.05);
  EXPECT_NEAR(normal.percentiles(0.999).low, -3.0902, 0.05);
  EXPECT_EQ(normal.percentiles(1).high, normal.extremes().high);
  EXPECT_EQ(normal.percentiles(1).low, normal.extremes().low);
}

TEST(QuantizationRange, ErrorIsThatOfTheNumbers) {
  // Evenly spread numbers within the range: s^2 / 12.
  const OwnedTensor flat = uniform(-1, 1, 100'000);
  const Grid grid = asymmetric_grid(-1, 1, 6);
  EXPECT_NEAR(count({flat}).squared_error(grid), std::pow(double(grid.scale), 2) / 12,
              0.02 * std::pow(double(grid.scale), 2) / 12);
  // Any others: as counted one by one, rounded, clipped or both, whether bins are wide or narrow.
  for (const double scale : {1e-3, 1.0, 3e4}) {
    const OwnedTensor x = test::normal(DType::f32, {50'000}, 5, scale, 0.3 * scale);
    const ValueDistribution values = count({x});
    for (const int bits : {2, 4, 8, 10})
      for (const double end : {0.7, 3.0, 20.0}) {
        const Grid clipping = asymmetric_grid(-0.5 * end * scale, end * scale, bits);
        const double want = squared_error(x, clipping);
        EXPECT_NEAR(values.squared_error(clipping), want, 0.03 * want) << bits << " " << end;
      }
  }
}

TEST(QuantizationRange, LeastSquaresOfTheNormalDistribution) {
  // Max, "Quantizing for minimum distortion" (1960), table II: 16 levels 0.3352 sigma apart.
  const ValueRange range = count({test::normal(DType::f32, {400'000}, 7)}).least_squares(4);
  EXPECT_NEAR((range.high - range.low) / 15, 0.3352, 0.015);
}

TEST(QuantizationRange, LeastSquaresBeatsExtremesOnAPlantedOutlier) {
  const OwnedTensor x = test::normal(DType::f32, {1000, 100}, 9);
  set(x, 4321, 60);
  const ValueDistribution values = count({x});
  const auto error = [&](const ValueRange& range, int bits) {
    return squared_error(x, asymmetric_grid(range.low, range.high, bits));
  };
  EXPECT_LT(error(values.least_squares(4), 4), 0.1 * error(values.extremes(), 4));
  // At 8 bits clipping one number costs more than it gives.
  EXPECT_LE(error(values.least_squares(8), 8), 1.01 * error(values.extremes(), 8));
  EXPECT_GT(values.least_squares(8).high, 30);
}

TEST(QuantizationRange, CountsTheSameWithAnyNumberOfThreads) {
  const OwnedTensor x = test::normal(DType::f32, {64, 100}, 2);
  Context ctx;
  ctx.threads = 4;
  const Tensor part = x.view().slice(1, 10, 70);
  const OwnedTensor copy = test::copy_of(part);
  const ValueDistribution one = count({copy}), other = count({part}, ctx);
  EXPECT_EQ(one.count(), 64 * 70);
  EXPECT_EQ(other.count(), one.count());
  for (const double p : {0.6, 0.9, 0.999, 1.0})
    EXPECT_EQ(one.percentiles(p).high, other.percentiles(p).high);
  const Grid grid = asymmetric_grid(-1, 1, 8);
  EXPECT_EQ(one.squared_error(grid), other.squared_error(grid));
}

TEST(QuantizationRange, KnowsWhatIsNotFinite) {
  for (const float bad : {std::numeric_limits<float>::infinity(), std::nanf(""), -std::nanf(""),
                          -std::numeric_limits<float>::infinity()}) {
    const OwnedTensor x = test::normal(DType::f32, {100}, 2);
    EXPECT_TRUE(count({x}).finite());
    x.as<float>()[17] = bad;
    EXPECT_FALSE(count({x}).finite());
  }
}

TEST(WeightQuantization, ByTensorAndByChannel) {
  const OwnedTensor w =
      test::from_values(DType::f32, {2, 3}, {1.27, -0.5, 0.004, 0.0127, -0.005, 0});
  const QuantizedWeights one = quantize_weights({}, w, {8, WeightScales::tensor});
  const std::vector<double> by_tensor{1.27, -0.5, 0, 0.01, -0.0, 0};
  const QuantizedWeights each = quantize_weights({}, w, {8, WeightScales::channel});
  const std::vector<double> by_channel{1.27, -0.5, 0, 0.0127, -0.005, 0};
  for (std::int64_t i = 0; i < 6; ++i) {
    EXPECT_NEAR(get(one.values, i), by_tensor[std::size_t(i)], 1e-7);
    EXPECT_NEAR(get(each.values, i), by_channel[std::size_t(i)], 1e-7);
  }
  EXPECT_NEAR(one.high, 1.27, 1e-6);
  EXPECT_EQ(one.low, -one.high);
  EXPECT_EQ(each.high, one.high);
  EXPECT_NEAR(one.squared_error, (0.004 * 0.004 + 0.0027 * 0.0027 + 0.005 * 0.005) / 6, 1e-9);
  EXPECT_NEAR(each.squared_error, 0.004 * 0.004 / 6, 1e-9);
}

TEST(WeightQuantization, LeastSquaresClipsAnOutlier) {
  const OwnedTensor w = test::normal(DType::f64, {64, 64}, 3);
  set(w, 77, 20);
  for (const WeightScales scales : {WeightScales::tensor, WeightScales::channel}) {
    const QuantizedWeights all = quantize_weights({}, w, {4, scales, WeightRange::minmax});
    const QuantizedWeights best = quantize_weights({}, w, {4, scales, WeightRange::mse});
    // By channel one of 64 has the outlier.
    EXPECT_LT(best.squared_error, (scales == WeightScales::tensor ? 0.5 : 1) * all.squared_error);
    double sum = 0;
    for (std::int64_t i = 0; i < w.view().count(); ++i)
      sum += std::pow(get(w, i) - get(best.values, i), 2);
    EXPECT_NEAR(best.squared_error, sum / 4096, 1e-12);
  }
}

}  // namespace
}  // namespace quietformer
