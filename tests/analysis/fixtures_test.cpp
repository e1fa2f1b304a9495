// PyTorch's statistics and fake quantisation (tests/fixtures/README.md) against ours.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "analysis/activation_statistics.h"
#include "analysis/quantization.h"
#include "analysis/weight_statistics.h"
#include "tests/support/fixtures.h"
#include "tests/support/safetensors.h"
#include "tests/support/tensors.h"

namespace quietformer {
namespace {

using nlohmann::json;

constexpr double kTolerance = 1e-6;  // relative; the fixture is float64 on float32 data

void expect_value(const json& want, const char* key, double got) {
  ASSERT_TRUE(want.contains(key)) << key;
  const double value = want.at(key).get<double>();
  EXPECT_NEAR(got, value, kTolerance * std::abs(value)) << key;
}

void expect_moments(const json& want, const Moments& got) {
  expect_value(want, "mean", got.mean);
  expect_value(want, "variance", got.variance());
  expect_value(want, "skewness", got.skewness());
  expect_value(want, "kurtosis", got.kurtosis());
  expect_value(want, "max_abs", got.max_abs);
}

TEST(StatisticsFixture, ActivationsAndWeights) {
  const std::string folder = test::fixtures_folder();
  std::ifstream text(folder + "/statistics.json");
  ASSERT_TRUE(text) << folder << "/statistics.json";
  const json want = json::parse(text);
  const test::SafetensorsFile tensors(folder + "/statistics.safetensors");
  AnalysisConfig config;
  config.sites = {"x"};
  ActivationStatistics statistics(config, 1);
  Context ctx;
  ctx.threads = 2;
  int cases = 0;
  statistics.begin_step();
  for (const std::string& name : tensors.names()) {
    if (!name.starts_with("batch")) continue;
    statistics.begin_batch();
    statistics.record(ctx, "x", tensors.read(name));
    ++cases;
  }
  ASSERT_GT(cases, 0);
  statistics.end_step();
  const SampleSums& all = statistics.latest().at(0).all;
  const json& activations = want.at("activations");
  EXPECT_EQ(all.samples, activations.at("n_samples").get<std::int64_t>());
  expect_value(activations, "mean", all.average(&SampleSums::mean));
  expect_value(activations, "variance", all.average(&SampleSums::variance));
  expect_value(activations, "skewness", all.average(&SampleSums::skewness));
  expect_value(activations, "kurtosis", all.average(&SampleSums::kurtosis));
  expect_value(activations, "max_abs", all.pooled.max_abs);
  expect_moments(activations.at("pooled"), all.pooled);

  ASSERT_FALSE(want.at("weights").empty());
  for (const auto& [name, weights] : want.at("weights").items()) {
    ASSERT_TRUE(tensors.has(name)) << name;
    const Moments moments = weight_statistics(ctx, name, tensors.read(name)).moments;
    EXPECT_EQ(moments.count, weights.at("n_weights").get<std::int64_t>());
    expect_moments(weights, moments);
    ++cases;
  }
  std::printf("fixtures: %d cases from %s\n", cases, folder.c_str());
}

/// torch.fake_quantize_per_tensor_affine and per_channel_affine, bit for bit.
TEST(QuantizationFixture, GridsAndRoundedNumbers) {
  const std::string folder = test::fixtures_folder();
  std::ifstream text(folder + "/quantization.json");
  ASSERT_TRUE(text) << folder << "/quantization.json";
  const json cases = json::parse(text).at("cases");
  const test::SafetensorsFile tensors(folder + "/quantization.safetensors");
  ASSERT_FALSE(cases.empty());
  for (const json& c : cases) {
    const std::string kind = c.at("kind"), name = c.at("x");
    const int bits = c.at("bits");
    const std::string what = kind + "/" + name + "/" + std::to_string(bits);
    const OwnedTensor x = tensors.read("x/" + name), want = tensors.read(what);
    if (kind == "asymmetric") {
      double low = INFINITY, high = -INFINITY;
      for (std::int64_t i = 0; i < x.view().count(); ++i)
        low = std::min(low, test::get(x, i)), high = std::max(high, test::get(x, i));
      const Grid grid = asymmetric_grid(low, high, bits);
      EXPECT_EQ(double(grid.scale), c.at("scales").at(0).get<double>()) << what;
      EXPECT_EQ(grid.zero, c.at("zero").get<int>()) << what;
      const OwnedTensor y(x.view().dtype, x.view().shape);
      fake_quantize({}, y, x, grid);
      EXPECT_TRUE(test::same_bits(y, want)) << what;
      continue;
    }
    const WeightScales scales = kind == "channel" ? WeightScales::channel : WeightScales::tensor;
    EXPECT_TRUE(test::same_bits(quantize_weights({}, x, {bits, scales}).values, want)) << what;
  }
}

}  // namespace
}  // namespace quietformer
