#include "analysis/moments.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <numbers>
#include <vector>

#include "core/random.h"

namespace quietformer {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

template <class T>
Moments of(const std::vector<T>& x, const OutlierLimits& limits = {}, int threads = 1) {
  Context ctx;
  ctx.threads = threads;
  return moments_of(ctx, Tensor(const_cast<T*>(x.data()), dtype_of<T>(), {std::int64_t(x.size())}),
                    limits);
}

// Two passes in long double: the definition.
template <class T>
Moments by_definition(const std::vector<T>& x) {
  long double mean = 0, m2 = 0, m3 = 0, m4 = 0;
  for (T v : x) mean += (long double)(v) / (long double)(x.size());
  for (T v : x) {
    const long double d = v - mean;
    m2 += d * d, m3 += d * d * d, m4 += d * d * d * d;
  }
  Moments m;
  m.count = std::int64_t(x.size());
  m.mean = double(mean), m.m2 = double(m2), m.m3 = double(m3), m.m4 = double(m4);
  return m;
}

std::vector<double> uniforms(std::size_t n, std::uint32_t stream) {
  std::vector<double> x(n);
  const RandomKey key = stream_key(5, RandomPurpose::initialisation, stream, 0);
  for (std::size_t i = 0; i < n; ++i) {
    const Philox4 bits = philox(key, std::uint32_t(i), 0, 0, 0);
    x[i] = (bits.word[0] + (bits.word[1] + 0.5) / 4294967296.0) / 4294967296.0;
  }
  return x;
}

std::vector<double> normals(std::size_t n, std::uint32_t stream) {
  const std::vector<double> u = uniforms(n, stream), v = uniforms(n, stream + 1000);
  std::vector<double> x(n);
  for (std::size_t i = 0; i < n; ++i)
    x[i] = std::sqrt(-2 * std::log(u[i])) * std::cos(2 * std::numbers::pi * v[i]);
  return x;
}

void expect_close(const Moments& got, const Moments& want, double tolerance) {
  const double sigma = std::sqrt(want.variance());
  EXPECT_EQ(got.count, want.count);
  EXPECT_NEAR(got.mean, want.mean, tolerance * (std::abs(want.mean) + sigma));
  EXPECT_NEAR(got.variance(), want.variance(), tolerance * want.variance());
  EXPECT_NEAR(got.skewness(), want.skewness(), tolerance * (1 + std::abs(want.skewness())));
  EXPECT_NEAR(got.kurtosis(), want.kurtosis(), tolerance * (3 + std::abs(want.kurtosis())));
}

TEST(Moments, SmallExactCases) {
  const Moments a = of<double>({5, 1, 0});
  EXPECT_EQ(a.mean, 2);
  EXPECT_NEAR(a.variance(), 14.0 / 3, 1e-15);
  EXPECT_NEAR(a.m3, 18, 1e-14);
  EXPECT_NEAR(a.m4, 98, 1e-13);
  EXPECT_NEAR(a.kurtosis(), 98.0 / 3 / (14.0 / 3 * 14.0 / 3) - 3, 1e-14);
  EXPECT_EQ(a.max_abs, 5);
  const Moments b = of<float>({1, 2, 3, 4, 5});
  EXPECT_NEAR(b.variance(), 2, 1e-15);
  EXPECT_NEAR(b.skewness(), 0, 1e-15);
  EXPECT_NEAR(b.kurtosis(), -1.3, 1e-14);
  EXPECT_NEAR(of<float>({6, 7, 8, 9, 0}).variance(), 10, 1e-14);
  EXPECT_EQ(of<float>({-7, 3}).max_abs, 7);
}

TEST(Moments, KnownDistributions) {
  const Moments normal = of(normals(1000000, 1));
  EXPECT_NEAR(normal.mean, 0, 5e-3);
  EXPECT_NEAR(normal.variance(), 1, 1e-2);
  EXPECT_NEAR(normal.skewness(), 0, 1e-2);
  EXPECT_NEAR(normal.kurtosis(), 0, 2e-2);
  const Moments uniform = of(uniforms(1000000, 2));
  EXPECT_NEAR(uniform.mean, 0.5, 1e-3);
  EXPECT_NEAR(uniform.variance(), 1.0 / 12, 3e-4);
  EXPECT_NEAR(uniform.kurtosis(), -1.2, 1e-2);
}

TEST(Moments, AgreeWithTheDefinitionAtEveryLength) {
  for (std::size_t n : {1u, 2u, 7u, 8u, 63u, 1023u, 1024u, 1025u, 4097u, 200001u}) {
    std::vector<double> x = normals(n, 3);
    for (std::size_t i = 0; i < n; i += 97) x[i] = std::exp(3 * x[i]);  // heavy tail
    const std::vector<float> single(x.begin(), x.end());
    if (n == 1) {
      EXPECT_EQ(of(x).variance(), 0);
      continue;
    }
    expect_close(of(x), by_definition(x), 1e-12);
    expect_close(of(single), by_definition(single), 1e-12);
  }
}

TEST(Moments, LargeOffsetCostsNothing) {
  // Raw power sums of these in double would leave no correct digit of the fourth moment.
  std::vector<double> x = normals(300000, 4);
  const Moments centred = of(x);
  std::vector<double> shifted = x;
  for (double& v : shifted) v += 1e4;
  const Moments moved = of(shifted);
  EXPECT_NEAR(moved.mean, centred.mean + 1e4, 1e-10);
  EXPECT_NEAR(moved.variance(), centred.variance(), 1e-10);
  EXPECT_NEAR(moved.skewness(), centred.skewness(), 1e-10);
  EXPECT_NEAR(moved.kurtosis(), centred.kurtosis(), 1e-10);
  const std::vector<float> single(shifted.begin(), shifted.end());
  expect_close(of(single), by_definition(single), 1e-10);
}

TEST(Moments, AnySplitMergesToTheSame) {
  std::vector<double> x = normals(50000, 6);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = x[i] * (1 + double(i) / 5000) + double(i % 7);
  x[123] = 5000;
  const OutlierLimits limits{6, -30, 35};
  const Moments whole = of(x, limits);
  for (std::size_t pieces : {2u, 3u, 10u, 977u}) {
    Moments merged, backwards;
    std::vector<Moments> parts;
    for (std::size_t p = 0; p < pieces; ++p) {
      // Uneven borders, some pieces empty.
      const auto at = [&](std::size_t k) {
        return std::size_t(double(x.size()) * std::pow(double(k) / double(pieces), 3));
      };
      parts.push_back(of(std::vector<double>(x.begin() + std::ptrdiff_t(at(p)),
                                             x.begin() + std::ptrdiff_t(at(p + 1))),
                         limits));
    }
    for (std::size_t p = 0; p < pieces; ++p) {
      merged.merge(parts[p]);
      backwards.merge(parts[pieces - 1 - p]);
    }
    for (const Moments& m : {merged, backwards}) {
      expect_close(m, whole, 1e-12);
      EXPECT_EQ(m.max_abs, 5000);
      EXPECT_EQ(m.beyond_magnitude, whole.beyond_magnitude);
      EXPECT_EQ(m.outside, whole.outside);
    }
  }
}

TEST(Moments, BitwiseIndependentOfThreads) {
  const std::vector<double> x = normals(700001, 8);
  const std::vector<float> single(x.begin(), x.end());
  const Moments one = of(single, {3, -2, 2});
  for (int threads : {2, 3, 7}) {
    const Moments many = of(single, {3, -2, 2}, threads);
    EXPECT_EQ(0, std::memcmp(&one, &many, sizeof(Moments)));
  }
}

TEST(Moments, PlantedOutliersAreCountedOnce) {
  std::vector<float> x(10000, 0.5f);
  for (std::size_t i : {0u, 1023u, 1024u, 5000u, 9999u}) x[i] = i % 2 ? 6.5f : -6.5f;
  x[77] = 6.0f;  // not beyond
  Moments m = of(x, {6, -6.4, 6.6});
  EXPECT_EQ(m.beyond_magnitude, 5);
  EXPECT_EQ(m.outside, 3);  // the negative ones
  m = of(x);
  EXPECT_EQ(m.outside, 0);
  EXPECT_EQ(of(x, {.low = 0.6, .high = kInf}).outside, 9997);
  x[3] = NAN, x[4] = float(kInf);
  EXPECT_EQ(of(x, {6, -6.4, 6.6}).beyond_magnitude, 6);
  EXPECT_EQ(of(x, {6, -6.4, 6.6}).outside, 4);
}

TEST(Moments, ConstantsHaveNoShape) {
  // 0.1 is not representable: a rounded mean would leave noise that passes for a kurtosis.
  for (double value : {0.1, 1.0 / 3, -1e30, 0.0}) {
    for (std::size_t n : {3u, 1000u, 100003u}) {
      const Moments m = of(std::vector<double>(n, value));
      EXPECT_EQ(m.mean, value);
      EXPECT_EQ(m.variance(), 0);
      EXPECT_TRUE(std::isnan(m.kurtosis()));
      EXPECT_TRUE(std::isnan(m.skewness()));
      EXPECT_TRUE(std::isnan(of(std::vector<float>(n, float(value))).kurtosis()));
    }
  }
}

TEST(Moments, NotANumberShows) {
  const Moments none;
  EXPECT_TRUE(std::isnan(none.average()) && std::isnan(none.variance()));
  EXPECT_TRUE(std::isnan(none.skewness()) && std::isnan(none.kurtosis()));
  for (std::size_t at : {0u, 500u, 2999u}) {
    std::vector<float> x(3000, 1.0f);
    x[7] = -3;
    x[at] = NAN;
    const Moments nan = of(x);
    EXPECT_TRUE(std::isnan(nan.mean) && std::isnan(nan.kurtosis()) && std::isnan(nan.max_abs));
    Moments merged = of<float>({9, 1});
    merged.merge(nan);
    EXPECT_TRUE(std::isnan(merged.max_abs) && std::isnan(merged.variance()));
    merged.merge(of<float>({90, 1}));
    EXPECT_TRUE(std::isnan(merged.max_abs));
    x[at] = float(-kInf);
    const Moments inf = of(x);
    EXPECT_EQ(inf.max_abs, kInf);
    EXPECT_TRUE(std::isnan(inf.kurtosis()));
    EXPECT_EQ(inf.beyond_magnitude, 1);
  }
}

TEST(Moments, ExtremeScalesStayFinite) {
  std::vector<double> x = normals(5000, 9);
  const double kurtosis = of(x).kurtosis();
  for (double scale : {1e-70, 1e-30, 1e30, 1e70}) {
    std::vector<double> y = x;
    for (double& v : y) v *= scale;
    EXPECT_NEAR(of(y).kurtosis(), kurtosis, 1e-11) << scale;
  }
}

TEST(Moments, RowsWithStrideAndMask) {
  const std::vector<double> x = normals(40 * 96, 11);
  std::vector<std::uint8_t> keep(40, 1);
  for (std::size_t r = 0; r < 40; r += 3) keep[r] = 0;
  std::vector<double> picked, all;
  for (std::size_t r = 0; r < 40; ++r)
    for (std::size_t c = 32; c < 64; ++c) {
      all.push_back(x[r * 96 + c]);
      if (keep[r]) picked.push_back(x[r * 96 + c]);
    }
  expect_close(moments_of(ValueRows<double>{x.data() + 32, 40, 32, 96, nullptr}, {}),
               by_definition(all), 1e-13);
  expect_close(moments_of(ValueRows<double>{x.data() + 32, 40, 32, 96, keep.data()}, {}),
               by_definition(picked), 1e-13);
  // Rows longer than a block, contiguous with a mask.
  const std::vector<double> wide = normals(5 * 3000, 12);
  const std::vector<std::uint8_t> odd{0, 1, 0, 1, 0};
  std::vector<double> kept(wide.begin() + 3000, wide.begin() + 6000);
  kept.insert(kept.end(), wide.begin() + 9000, wide.begin() + 12000);
  expect_close(moments_of(ValueRows<double>{wide.data(), 5, 3000, 3000, odd.data()}, {}),
               by_definition(kept), 1e-13);
}

}  // namespace
}  // namespace quietformer
