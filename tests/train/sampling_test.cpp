#include "train/sampling.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "core/check.h"

namespace quietformer {
namespace {

const std::array<float, 5> kLogits{std::log(0.1f), std::log(0.4f), std::log(0.2f), std::log(0.25f),
                                   std::log(0.05f)};

std::array<double, 5> frequencies(const SamplingConfig& config) {
  TokenSampler sampler(config, 11);
  std::array<double, 5> count{};
  for (std::uint64_t i = 0; i < 40000; ++i)
    count[sampler.draw(kLogits.data(), 5, i)] += 1.0 / 40000;
  return count;
}

TEST(Sampling, FollowsTheDistribution) {
  const auto f = frequencies({});
  EXPECT_NEAR(f[0], 0.1, 0.01);
  EXPECT_NEAR(f[1], 0.4, 0.01);
  EXPECT_NEAR(f[4], 0.05, 0.005);
}

TEST(Sampling, TemperatureSharpens) {
  const auto f = frequencies({.temperature = 0.5});
  const double z = 0.01 + 0.16 + 0.04 + 0.0625 + 0.0025;
  EXPECT_NEAR(f[1], 0.16 / z, 0.01);
  EXPECT_NEAR(frequencies({.temperature = 0})[1], 1.0, 1e-9);
}

TEST(Sampling, TopKAndTopPKeepTheLikely) {
  const auto k = frequencies({.top_k = 2});
  EXPECT_NEAR(k[1], 0.4 / 0.65, 0.01);
  EXPECT_EQ(k[0] + k[2] + k[4], 0);
  // 0.4 + 0.25 reaches 0.5: the token that crosses is kept.
  const auto p = frequencies({.top_p = 0.5});
  EXPECT_NEAR(p[3], 0.25 / 0.65, 0.01);
  EXPECT_EQ(p[0] + p[2] + p[4], 0);
}

TEST(Sampling, SameSeedSameDrawAndBadValuesAreRefused) {
  TokenSampler a({}, 5), b({}, 5);
  for (std::uint64_t i = 0; i < 100; ++i)
    EXPECT_EQ(a.draw(kLogits.data(), 5, i), b.draw(kLogits.data(), 5, i));
  EXPECT_THROW(validate(SamplingConfig{.temperature = -1}), InputError);
  EXPECT_THROW(validate(SamplingConfig{.temperature = NAN}), InputError);
  EXPECT_THROW(validate(SamplingConfig{.top_k = -1}), InputError);
  EXPECT_THROW(validate(SamplingConfig{.top_p = 0}), InputError);
}

}  // namespace
}  // namespace quietformer
