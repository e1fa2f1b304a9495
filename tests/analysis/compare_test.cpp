// Variants, and comparisons as text.
#include "analysis/compare.h"

#include <cmath>

#include "analysis/run_metrics.h"
#include "tests/analysis/run_directory.h"

namespace quietformer {
namespace {

using nlohmann::json;

class Compare : public RunDirectories {
 protected:
  Compare() : RunDirectories("quietformer_compare") {}
};

constexpr const char* kSigmoid =
    "name: s\nattention: {score: cosine, normalizer: sigmoid, sigmoid_bias: {learned: true, init: "
    "-3}}\n";

TEST_F(Compare, TableAndJsonShowDifferencesToTheFirst) {
  json other = json::parse(kResults);
  other["loss"]["test"] = 2.5;
  other["activations"]["embedding"]["kurtosis"] = 0.5;
  other.erase("sink_mass");
  other["row_sum"] = 0.5;
  const Comparison comparison = compared({make("a"), make("b", other.dump(), kSigmoid)});
  const std::string table = comparison_table(comparison);
  EXPECT_NE(table.find("cosine sigmoid bias=learned"), std::string::npos);
  EXPECT_NE(table.find("2.5 (+0.25)"), std::string::npos);
  EXPECT_NE(table.find("0.5 (-0.5)"), std::string::npos);
  EXPECT_NE(table.find("2.5 (+0)"), std::string::npos);
  // In one order, whoever has them.
  EXPECT_LT(table.find("tokens_per_second"), table.find("sink_mass"));
  EXPECT_LT(table.find("row_sum"), table.find("activations/"));
  const json root = json::parse(comparison_json(comparison));
  ASSERT_EQ(root["runs"].size(), 2u);
  EXPECT_EQ(root["runs"][0]["activations"]["blocks.*.output"]["max_kurtosis"], 30);
  EXPECT_EQ(root["runs"][1]["delta"]["loss"]["test"], 0.25);
  EXPECT_EQ(root["runs"][1]["delta"]["activations"]["embedding"]["mean_kurtosis"], -0.5);
  EXPECT_FALSE(root["runs"][1]["delta"].contains("row_sum"));
  EXPECT_EQ(root["runs"][0]["delta"]["loss"]["test"], 0);
  EXPECT_EQ(root["runs"][1]["variant"], 1);
  EXPECT_EQ(root["runs"][0]["environment"]["commit"], "abc");
  EXPECT_EQ(root["variants"][1]["loss"]["test"]["delta"], 0.25);
  EXPECT_EQ(root["variants"][0]["loss"]["test"]["best"], true);
  EXPECT_TRUE(root["variants"][0]["loss"]["test"]["deviation"].is_null());
  EXPECT_EQ(root["metrics"]["loss/test"]["unit"], "nats/token");
}

TEST_F(Compare, SeedsOfOneConfigAreAVariant) {
  const std::vector<std::string> directories{
      make_seed("soft-seed1", 1, 2), make("other", kResults, kSigmoid),
      make_seed("soft-seed2", 2, 4), make_seed("soft-seed3", 3, 6)};
  const Comparison comparison = compared(directories);
  ASSERT_EQ(comparison.variants.size(), 2u);
  const Variant& soft = comparison.variants[0];
  EXPECT_EQ(soft.name, "soft");
  EXPECT_EQ(soft.runs, (std::vector<std::size_t>{0, 2, 3}));
  EXPECT_EQ(comparison.variants[1].name, "s");
  const MetricSummary* loss = find_metric(soft, "loss/validation");
  ASSERT_NE(loss, nullptr);
  EXPECT_EQ(loss->count, 3);
  EXPECT_DOUBLE_EQ(loss->mean, 4);
  EXPECT_DOUBLE_EQ(loss->deviation, 2);  // of a sample: sqrt((4 + 0 + 4) / 2)
  EXPECT_TRUE(std::isnan(find_metric(comparison.variants[1], "loss/validation")->deviation));
  EXPECT_NE(comparison_table(comparison).find("4 ± 2"), std::string::npos);
  EXPECT_EQ(compared(directories, Grouping::none).variants.size(), 4u);
}

TEST_F(Compare, MeanCurvesGoOverTheStepsThatAllSeedsHave) {
  const std::string first = make_seed("a1", 1, 2), second = make_seed("a2", 2, 3);
  write("a2", "log.jsonl", "{\"step\": 0, \"loss\": 6.5}\n{\"step\": 20, \"loss\": 5}\n");
  const Comparison comparison = compared({first, second});
  ASSERT_EQ(comparison.variants.size(), 1u);
  const std::vector<Curve>& curves = comparison.variants[0].log;
  ASSERT_FALSE(curves.empty());
  EXPECT_EQ(curves[0].name, "loss");
  EXPECT_EQ(curves[0].steps, (std::vector<std::int64_t>{0, 20}));
  EXPECT_EQ(curves[0].values, (std::vector<double>{6, 4.5}));
}

TEST_F(Compare, WhatTellsVariantsApart) {
  const std::string config = kConfig;
  const auto with = [&](const char* from, const std::string& to) {
    std::string text = config;
    return text.replace(text.find(from), std::string(from).size(), to);
  };
  const std::string first = make("first");
  for (const auto& [text, variants] : std::vector<std::pair<std::string, std::size_t>>{
           {with("seed: 1", "seed: 9"), 1},
           {with("auto", "cuda"), 1},
           {with("threads: 2", "threads: 8"), 1},
           {with("softmax1", "another"), 1},
           {with("n: 1.0", "n: 0"), 2},
           {with("seed: 1", "seed: 1, batch: 3"), 2}}) {
    const Comparison comparison = compared({first, make("second", kResults, text)});
    EXPECT_EQ(comparison.variants.size(), variants) << text;
    // Variants of one name are told apart by their directories.
    if (variants == 2) {
      EXPECT_EQ(comparison.variants[1].name, "softmax1 (second)");
    }
  }
  const Comparison comparison =
      compared({first, make("second", kResults, with("n: 1.0", "n: [0, 1]"))});
  ASSERT_EQ(comparison.differences.size(), 1u);
  EXPECT_EQ(comparison.differences[0].key, "attention.n");
  EXPECT_EQ(comparison.differences[0].values, (std::vector<std::string>{"1.0", "[0, 1]"}));
}

TEST_F(Compare, BestIsLowerOrHigherAsTheMetricWantsAndTiesShareIt) {
  json fast = json::parse(kResults);
  fast["sink_mass"] = 0.5;
  fast["loss"]["validation"] = 2.25;
  const std::string config = std::string(kConfig) + "x: 1\n";
  const Comparison comparison = compared(
      {make("a"), make("b", fast.dump(), config, "{\"step\": 0, \"tokens_per_second\": 90}\n")});
  const auto best = [&](const char* metric) {
    std::string which;
    for (const Variant& variant : comparison.variants)
      which += is_best(comparison, variant, metric) ? '1' : '0';
    return which;
  };
  EXPECT_EQ(best("loss/validation"), "01");
  EXPECT_EQ(best("tokens_per_second"), "01");
  EXPECT_EQ(best("sink_mass"), "00");  // neither side is better
  EXPECT_EQ(best("loss/test"), "00");  // all equal: nothing to choose
  json third = fast;
  third["loss"]["validation"] = 2.75;
  const Comparison tie = compared({make("a", fast.dump()), make("b", fast.dump(), config),
                                   make("c", third.dump(), config + "y: 1\n")});
  EXPECT_TRUE(is_best(tie, tie.variants[0], "loss/validation"));
  EXPECT_TRUE(is_best(tie, tie.variants[1], "loss/validation"));
  EXPECT_FALSE(is_best(tie, tie.variants[2], "loss/validation"));
}

TEST_F(Compare, CsvHasARowPerMetricAndVariant) {
  const std::string config = std::string(kConfig) + "x: 1\n";
  std::string named = config;
  named.replace(named.find("softmax1"), 8, "'a, \"b\"'");
  const std::string csv = comparison_csv(
      compared({make_seed("a", 1, 2), make_seed("b", 2, 4), make("c", kResults, named)}));
  EXPECT_TRUE(csv.starts_with("metric,unit,better,variant,runs,mean,deviation,delta\r\n"));
  EXPECT_NE(csv.find("loss/validation,nats/token,lower,a,2,3,1.4142135623730951,0\r\n"),
            std::string::npos)
      << csv;
  EXPECT_NE(csv.find("loss/validation,nats/token,lower,\"a, \"\"b\"\"\",1,2.5,,-0.5\r\n"),
            std::string::npos);
}

TEST_F(Compare, MarkdownIsTheSummaryWithTheBestInBold) {
  json better = json::parse(kResults);
  better["loss"]["test"] = 2;
  std::string config = kConfig;
  config.replace(config.find("n: 1.0"), 6, "n: '0|<b>'");
  const std::string text =
      comparison_markdown(compared({make("a"), make("b", better.dump(), config)}));
  EXPECT_NE(text.find("| Loss, test, nats/token | 2.25 | **2** (-0.25) |\n"), std::string::npos)
      << text;
  EXPECT_EQ(text.find("blocks."), std::string::npos);  // no single families
  EXPECT_NE(text.find("| attention.n | 1.0 | 0\\|\\<b\\> |\n"), std::string::npos) << text;
}

TEST_F(Compare, NamesThatLookLikeSomethingElse) {
  // Like paths of other metrics, and ones that a terminal would obey.
  const Comparison comparison =
      compared({make("names", R"({"loss": {"a/b": 1, "a": 2, "\u001b[2J": 3},
      "activations": {"x": {"kurtosis": 1}, "x/mean_kurtosis": {"kurtosis": 2}}})")});
  EXPECT_TRUE(json::accept(comparison_json(comparison)));
  EXPECT_EQ(comparison_table(comparison).find('\x1b'), std::string::npos);
}

}  // namespace
}  // namespace quietformer
