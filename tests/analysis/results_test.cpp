#include "analysis/results.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numbers>

#include "core/buffer.h"
#include "core/check.h"
#include "core/file.h"
#include "core/log.h"

namespace quietformer {
namespace {

using nlohmann::json;

// Two logged steps of one ordinary site, one constant site and one mass.
class Results : public testing::Test {
 protected:
  Results() : statistics_(config(), 2), x_(DType::f32, {2, 3, 4}), mass_(DType::f32, {2, 2, 3}) {
    for (int i = 0; i < 24; ++i) x_.as<float>()[i] = float(i * i % 11) - 3;
    for (int i = 0; i < 12; ++i) mass_.as<float>()[i] = i < 6 ? 0.25f : 0.5f;
    step();
  }
  static AnalysisConfig config() {
    AnalysisConfig config;
    config.sites = {"**"};
    config.per_head = true;
    return config;
  }
  void step() {
    OwnedTensor constant(DType::f32, {2, 3});
    statistics_.begin_step();
    statistics_.record(Context(), "blocks.0.attention.context", x_);
    statistics_.record(Context(), "blocks.0.attention.sink_mass", mass_);
    statistics_.record(Context(), "constant", constant);
    statistics_.end_step();
  }
  json parse(const RunResults& results) {
    warnings_.clear();
    const ScopedLogSink sink(
        [this](LogLevel, const std::string& line) { warnings_.push_back(line); });
    return json::parse(results_json(results, "results.json"));
  }
  ActivationStatistics statistics_;
  OwnedTensor x_, mass_;
  std::vector<std::string> warnings_;
};

TEST_F(Results, ShapeOfTheFile) {
  const Context ctx;
  const std::vector<WeightStatistics> weights{weight_statistics(ctx, "w.weight", x_)};
  RunResults results;
  results.losses = {{"validation", 2.5}, {"test", 2.25}};
  results.bytes = true;
  results.activations = statistics_.latest();
  results.weights = weights;
  json root = parse(results);
  EXPECT_EQ(root["loss"], (json{{"validation", 2.5}, {"test", 2.25}}));
  EXPECT_EQ(root["bits_per_byte"]["test"], 2.25 / std::numbers::ln2);
  EXPECT_EQ(root["sink_mass"], 0.375);
  EXPECT_FALSE(root.contains("row_sum"));

  const json site = root["activations"]["blocks.0.attention.context"];
  const SampleSums& all = statistics_.latest()[0].all;
  EXPECT_EQ(site["n_samples"], 2);
  EXPECT_TRUE(site["n_samples"].is_number_integer());
  EXPECT_EQ(site["kurtosis"], all.average(&SampleSums::kurtosis));
  EXPECT_EQ(site["skewness"], all.average(&SampleSums::skewness));
  EXPECT_EQ(site["variance"], all.average(&SampleSums::variance));
  EXPECT_EQ(site["mean"], all.average(&SampleSums::mean));
  EXPECT_EQ(site["max_abs"], 6);
  EXPECT_EQ(site["infinity_norm"], all.average(&SampleSums::infinity_norm));
  EXPECT_EQ(site["outliers_6"], 0);
  EXPECT_TRUE(site["outliers_6_sigma"].is_null());  // not known in the first step, no warning
  EXPECT_EQ(site["pooled"]["kurtosis"], all.pooled.kurtosis());
  EXPECT_EQ(site["per_head"]["kurtosis"].size(), 2u);
  const json mass = root["activations"]["blocks.0.attention.sink_mass"];
  EXPECT_EQ(mass["mean"], 0.375);
  EXPECT_EQ(mass["per_head"]["mean"], (json{0.375, 0.375}));
  EXPECT_FALSE(mass.contains("kurtosis"));

  const json weight = root["weights"]["w.weight"];
  EXPECT_EQ(weight["n_weights"], 24);
  EXPECT_EQ(weight["kurtosis"], weights[0].moments.kurtosis());
  EXPECT_EQ(weight["outliers_6_sigma"], 0);
  EXPECT_NE(weights_table(weights).find("w.weight"), std::string::npos);
  EXPECT_EQ(json::parse(weights_json(weights, "x"))["weights"], root["weights"]);

  step();
  results.activations = statistics_.latest();
  EXPECT_EQ(parse(results)["activations"]["blocks.0.attention.context"]["outliers_6_sigma"], 0);
}

TEST_F(Results, TheFinalPassHasItsPlaces) {
  FinalResults final;
  final.sites = {{"blocks.0.attention.context", {}, {1}, {1}}};
  for (const double x : {0.0, 1.0, 1.0, 0x1p20}) final.sites[0].histogram.add(x);
  final.outliers = {4, {0, 3, 4}, {0, 0.5, 0.25}, {1, 2}};
  final.attention = {{"blocks.0.attention", {0.25, NAN}, {0.5, 1}, {}, {2, 3}}};
  RunResults results;
  results.activations = statistics_.latest();
  json root = parse(results);
  EXPECT_FALSE(root.contains("attention") || root.contains("outlier_dimensions"));
  EXPECT_FALSE(root["activations"]["blocks.0.attention.context"].contains("histogram"));
  const std::string before = warnings_.at(0);
  results.final = &final;
  root = parse(results);
  const json histogram = root["activations"]["blocks.0.attention.context"]["histogram"];
  EXPECT_EQ(histogram["bins_per_octave"], 2);
  EXPECT_EQ(histogram["lowest_exponent"], -16);
  EXPECT_EQ(histogram["below"], 1);
  EXPECT_EQ(histogram["above"], 1);
  EXPECT_EQ(histogram["counts"].size(), 64u);
  EXPECT_EQ(histogram["counts"][32], 2);
  EXPECT_EQ(
      root["outlier_dimensions"],
      (json{{"count", 2}, {"channels", {1, 2}}, {"layers", {3, 4}}, {"positions", {0.5, 0.25}}}));
  EXPECT_EQ(root["attention"]["blocks.0.attention"]["entropy"], (json{2.0, 3.0}));
  EXPECT_EQ(root["attention"]["blocks.0.attention"]["first_token_mass"], (json{0.25, nullptr}));
  EXPECT_FALSE(root["attention"]["blocks.0.attention"].contains("sink_mass"));
  ASSERT_EQ(warnings_.size(), 1u);
  EXPECT_NE(warnings_[0], before);  // one more
}

TEST_F(Results, NotFiniteIsNullWithOneWarning) {
  RunResults results;
  results.losses = {{"validation", NAN}, {"test", INFINITY}};
  results.activations = statistics_.latest();
  json root = parse(results);
  EXPECT_TRUE(root["loss"]["validation"].is_null());
  EXPECT_TRUE(root["loss"]["test"].is_null());
  EXPECT_FALSE(root.contains("bits_per_byte"));
  EXPECT_TRUE(root["activations"]["constant"]["kurtosis"].is_null());
  EXPECT_TRUE(root["activations"]["constant"]["pooled"]["skewness"].is_null());
  EXPECT_EQ(root["activations"]["constant"]["variance"], 0);
  ASSERT_EQ(warnings_.size(), 1u);
  EXPECT_EQ(warnings_[0],
            "results.json: 6 values are not finite and written as null (first: loss.validation)");
}

TEST_F(Results, WritesTheFileOrSaysWhyNot) {
  const auto folder = std::filesystem::path(testing::TempDir()) / "quietformer_results";
  std::filesystem::create_directories(folder);
  RunResults results;
  results.losses = {{"test", 1}};
  write_results((folder / "results.json").string(), results);
  EXPECT_EQ(json::parse(read_file((folder / "results.json").string()))["loss"]["test"], 1);
  EXPECT_THROW(write_results((folder / "absent/results.json").string(), results), RunError);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace quietformer
