#include "train/run_config.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "core/check.h"
#include "tests/support/scratch.h"

namespace quietformer {
namespace {

const std::string kConfigs = QUIETFORMER_SOURCE "/configs";

TEST(RunConfig, EveryShippedConfigIsValidAndSurvivesARoundTrip) {
  int count = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(kConfigs)) {
    if (entry.path().extension() != ".yaml" ||
        entry.path().string().find("/sweeps/") != std::string::npos)
      continue;
    SCOPED_TRACE(entry.path().string());
    const RunConfig config = load_run_config(entry.path().string(), {});
    const std::string text = to_yaml(config);
    const RunConfig again = parse_run_config(text, "resolved");
    EXPECT_EQ(text, to_yaml(again));
    EXPECT_TRUE(differences(config, again).empty());
    ++count;
  }
  EXPECT_GE(count, 9);
}

TEST(RunConfig, HeadParametersInEveryForm) {
  const auto read = [](const std::string& value) {
    return parse_run_config("attention: {n: " + value + "}", "f").attention.n;
  };
  EXPECT_EQ(read("2.5"), HeadParameterConfig::fixed(2.5));
  EXPECT_EQ(read("[1, 2, 3, 4, 5, 6, 7, 8]"),
            HeadParameterConfig::per_head({1, 2, 3, 4, 5, 6, 7, 8}));
  EXPECT_EQ(read("{learned: true, init: 0.5}"), HeadParameterConfig::learned(0.5));
  EXPECT_THROW(read("{learned: true}"), InputError);
  EXPECT_EQ(read("{from: 0, to: 1, steps: 10}"), HeadParameterConfig::scheduled(0, 1, 10));
  EXPECT_THROW(read("-1"), InputError);
  EXPECT_THROW(read("{learned: false}"), InputError);
  EXPECT_THROW(read("{learned: true, init: 0}"), InputError);
  EXPECT_THROW(read("{from: 0, to: 1}"), InputError);
  EXPECT_THROW(read("-log_context"), InputError);
}

TEST(RunConfig, OverridesReplaceAHeadParameterWhole) {
  const RunConfig config =
      load_run_config(kConfigs + "/enwik8/sink.yaml", {"attention.n={from: 0, to: 2, steps: 5}"});
  EXPECT_EQ(config.attention.n, HeadParameterConfig::scheduled(0, 2, 5));
}

TEST(RunConfig, OverridesOfLayersSurviveARoundTrip) {
  const std::string model = "model: {layers: 6, heads: 2}\n";
  const auto read = [&](const std::string& overrides) {
    return parse_run_config(
        model + "attention: {n: 0.5, dropout: 0.1, overrides: " + overrides + "}", "c.yaml");
  };
  const RunConfig config = read(
      "[{layers: 0-3, n: [1, 2]}, {layers: '*', score: cosine, n: {learned: true, init: 3}}, "
      "{layers: '1,5', normalizer: sigmoid}, "
      "{layers: 2, normalizer: clipped_softmax, gamma: -4/context, zeta: {from: 1, to: 1.1, steps: "
      "9}}]");
  ASSERT_EQ(config.attention.overrides.size(), 4u);
  EXPECT_EQ(config.attention.of_layer(2).gamma, HeadParameterConfig::over_context(-4));
  EXPECT_EQ(config.attention.of_layer(2).zeta, HeadParameterConfig::scheduled(1, 1.1, 9));
  EXPECT_EQ(config.attention.overrides[0].dropout, 0.1);    // the section's
  EXPECT_EQ(config.attention.of_layer(0).score, "cosine");  // the last one counts
  EXPECT_EQ(config.attention.of_layer(5).normalizer, "sigmoid");
  EXPECT_EQ(config.attention.of_layer(5).score, "dot");
  EXPECT_TRUE(config.attention.of_layer(4).overrides.empty());
  const RunConfig again = parse_run_config(to_yaml(config), "again");
  EXPECT_TRUE(again.attention == config.attention) << to_yaml(config);
  EXPECT_TRUE(differences(config, again).empty());
  EXPECT_FALSE(differences(config, read("[]")).empty());

  const auto refusal = [&](const std::string& text) { return test::error_of([&] { read(text); }); };
  test::expect_contains(refusal("[{layers: 4-6}]"), "attention.overrides[0].layers: found 6");
  test::expect_contains(refusal("[{n: 1}]"), "attention.overrides[0].layers: found ''");
  test::expect_contains(refusal("[{layers: 1, m: 1}]"), "c.yaml:2: attention.overrides[0].m");
  test::expect_contains(refusal("[{layers: 1, n: -1}]"), "attention.overrides[0]: attention.n");
  test::expect_contains(refusal("[{layers: 1, gamma: x/context}]"), "attention.overrides[0].gamma");
  test::expect_contains(refusal("{layers: 1}"), "expected a list of maps");
}

TEST(RunConfig, DifferencesNameTheKeyAndIgnoreWhatCannotMatter) {
  const RunConfig a = parse_run_config("model: {dim: 64}\ntrain: {threads: 1, keep: 2}", "a");
  const RunConfig b = parse_run_config("model: {dim: 32}\ntrain: {threads: 2, keep: 5}", "b");
  ASSERT_EQ(differences(a, b).size(), 1u);
  EXPECT_EQ(differences(a, b)[0], "model.dim: 64 here, 32 there");
}

}  // namespace
}  // namespace quietformer
