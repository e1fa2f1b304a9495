#include "analysis/compare.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/check.h"
#include "core/log.h"
#include "core/random.h"

namespace quietformer {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kResults = R"({
  "loss": {"validation": 2.5, "test": 2.25}, "bits_per_byte": {"validation": 3.6},
  "sink_mass": 0.25,
  "activations": {
    "embedding": {"n_samples": 4, "kurtosis": 1, "max_abs": 3, "outliers_6": 0,
                  "outliers_6_sigma": null},
    "blocks.0.output": {"kurtosis": 30, "max_abs": 7.5, "outliers_6": 3, "outliers_6_sigma": 1},
    "blocks.11.output": {"kurtosis": 10, "max_abs": 9, "outliers_6": 5, "outliers_6_sigma": 2},
    "blocks.2.output": {"kurtosis": null, "max_abs": null},
    "blocks.2.attention.sink_mass": {"n_samples": 4, "mean": 0.25}},
  "weights": {"w": {"n_weights": 3, "kurtosis": 0.5, "max_abs": 2, "outliers_6_sigma": 4}}})";
constexpr const char* kConfig =
    "name: softmax1\nattention: {score: dot, normalizer: softmax_n, n: 1.0}\n";
constexpr const char* kLog =
    "{\"step\": 0, \"tokens_per_second\": 1}\n{\"step\": 10, \"tokens_per_second\": 50}\n"
    "{\"event\": \"evaluation\"}\n{\"step\": 20, \"tokens_per_second\": 70}\n";

class Compare : public testing::Test {
 protected:
  Compare() : folder_(fs::path(testing::TempDir()) / "quietformer_compare") {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  ~Compare() override { fs::remove_all(folder_); }

  std::string make(const std::string& name, const std::string& results = kResults,
                   const std::string& config = kConfig, const std::string& log = kLog) {
    fs::create_directories(folder_ / name);
    std::ofstream(folder_ / name / "results.json") << results;
    std::ofstream(folder_ / name / "config.yaml") << config;
    std::ofstream(folder_ / name / "log.jsonl") << log;
    return (folder_ / name).string();
  }
  std::vector<RunSummary> read(const std::vector<std::string>& directories) {
    warnings_.clear();
    const ScopedLogSink sink(
        [this](LogLevel, const std::string& line) { warnings_.push_back(line); });
    return read_runs(directories);
  }
  static double metric(const RunSummary& run, const std::string& name) {
    for (const NamedValue& m : run.metrics)
      if (m.name == name) return m.value;
    ADD_FAILURE() << "no metric " << name;
    return 0;
  }
  fs::path folder_;
  std::vector<std::string> warnings_;
};

TEST_F(Compare, SummarisesARun) {
  const auto runs = read({make("a")});
  EXPECT_TRUE(warnings_.empty());
  ASSERT_EQ(runs.size(), 1u);
  EXPECT_EQ(runs[0].name, "softmax1");
  EXPECT_EQ(runs[0].attention, "dot softmax_n n=1.0");
  EXPECT_EQ(metric(runs[0], "loss/test"), 2.25);
  EXPECT_EQ(metric(runs[0], "bits_per_byte/validation"), 3.6);
  EXPECT_EQ(metric(runs[0], "tokens_per_second"), 50);
  EXPECT_EQ(metric(runs[0], "sink_mass"), 0.25);
  EXPECT_EQ(metric(runs[0], "activations/blocks.*.output/mean_kurtosis"), 20);
  EXPECT_EQ(metric(runs[0], "activations/blocks.*.output/max_kurtosis"), 30);
  EXPECT_EQ(metric(runs[0], "activations/blocks.*.output/max_abs"), 9);
  EXPECT_EQ(metric(runs[0], "activations/blocks.*.output/outliers_6"), 8);
  EXPECT_EQ(metric(runs[0], "activations/blocks.*.output/outliers_6_sigma"), 3);
  EXPECT_EQ(metric(runs[0], "activations/embedding/max_kurtosis"), 1);
  EXPECT_EQ(metric(runs[0], "weights/outliers_6_sigma"), 4);
}

TEST_F(Compare, TableAndJsonShowDifferencesToTheFirst) {
  json other = json::parse(kResults);
  other["loss"]["test"] = 2.5;
  other["activations"]["embedding"]["kurtosis"] = 0.5;
  other.erase("sink_mass");
  other["row_sum"] = 0.5;
  const auto runs =
      read({make("a"), make("b", other.dump(),
                            "name: s\nattention: {score: cosine, normalizer: sigmoid, "
                            "sigmoid_bias: {learned: true, init: -3}}\n")});
  const std::string table = comparison_table(runs);
  EXPECT_NE(table.find("cosine sigmoid bias=learned"), std::string::npos);
  EXPECT_NE(table.find("2.5 (+0.25)"), std::string::npos);
  EXPECT_NE(table.find("0.5 (-0.5)"), std::string::npos);
  EXPECT_NE(table.find("2.5 (+0)"), std::string::npos);
  // In one order, whoever has them.
  EXPECT_LT(table.find("tokens_per_second"), table.find("sink_mass"));
  EXPECT_LT(table.find("row_sum"), table.find("activations/"));
  const json root = json::parse(comparison_json(runs));
  ASSERT_EQ(root["runs"].size(), 2u);
  EXPECT_EQ(root["runs"][0]["activations"]["blocks.*.output"]["max_kurtosis"], 30);
  EXPECT_EQ(root["runs"][1]["delta"]["loss"]["test"], 0.25);
  EXPECT_EQ(root["runs"][1]["delta"]["activations"]["embedding"]["mean_kurtosis"], -0.5);
  EXPECT_FALSE(root["runs"][1]["delta"].contains("row_sum"));
  EXPECT_EQ(root["runs"][0]["delta"]["loss"]["test"], 0);
}

TEST_F(Compare, ABadDirectoryIsOneWarningAndTheOthersStay) {
  const std::string good = make("good");
  const std::string results(kResults);
  fs::create_directories(folder_ / "empty");
  fs::create_directories(folder_ / "directory/results.json");
  std::ofstream(folder_ / "file") << "x";
  const std::string no_config = make("no_config");
  fs::remove(folder_ / "no_config/config.yaml");
  const std::vector<std::pair<std::string, std::string>> bad{
      {(folder_ / "absent").string(), "results.json"},
      {(folder_ / "empty").string(), "results.json"},
      {(folder_ / "directory").string(), "results.json"},
      {(folder_ / "file").string(), "results.json"},
      {make("truncated", results.substr(0, 200)), "results.json"},
      {make("foreign", "{\"a\": 1}"), "results.json"},
      {make("list", "[1, 2]"), "results.json"},
      {make("types", R"({"loss": 3, "activations": {}})"), "results.json"},
      {make("noise", "\xff\xfe\x01\x02"), "results.json"},
      {no_config, "config.yaml"},
      {make("other_config", kResults, "a: 1"), "config.yaml"},
      {make("broken_config", kResults, "a: ["), "config.yaml"},
  };
  for (const auto& [directory, file] : bad) {
    const auto runs = read({directory, good});
    EXPECT_EQ(runs.size(), 1u) << directory;
    ASSERT_EQ(warnings_.size(), 1u) << directory;
    EXPECT_NE(warnings_[0].find(directory + "/" + file), std::string::npos) << warnings_[0];
    EXPECT_EQ(warnings_[0].find('\n'), std::string::npos);
    EXPECT_THROW(read({directory}), InputError);
  }
}

TEST_F(Compare, WithoutALogOnlyTheSpeedIsMissing) {
  const std::string absent = make("absent_log");
  fs::remove(folder_ / "absent_log/log.jsonl");
  for (const std::string& directory : {absent, make("cut_log", kResults, kConfig, "{\"step\": ")}) {
    const auto runs = read({directory});
    ASSERT_EQ(runs.size(), 1u);
    ASSERT_EQ(warnings_.size(), 1u);
    EXPECT_NE(warnings_[0].find("log.jsonl"), std::string::npos);
    for (const NamedValue& m : runs[0].metrics) EXPECT_NE(m.name, "tokens_per_second");
  }
  EXPECT_EQ(read({make("no_speed", kResults, kConfig, "{\"step\": 1}\n")}).size(), 1u);
  EXPECT_TRUE(warnings_.empty());
}

TEST_F(Compare, DamagedResultsNeverBreakIt) {
  const std::string results(kResults);
  const std::string good = make("good"), bad = make("damaged");
  const RandomKey key = stream_key(4, RandomPurpose::initialisation, 0, 0);
  for (std::uint32_t i = 0; i < 600; ++i) {
    const Philox4 bits = philox(key, i, 0, 0, 0);
    std::string damaged = results;
    damaged[bits.word[0] % damaged.size()] = "\"{}[]:,/0a\n"[bits.word[1] % 11];
    if (i % 3 == 0) damaged[bits.word[2] % damaged.size()] = char(bits.word[3]);
    if (i % 7 == 0) damaged.resize(bits.word[3] % damaged.size());
    fs::remove(folder_ / "damaged/results.json");  // rewriting in place may wait for the disk
    std::ofstream(folder_ / "damaged/results.json") << damaged;
    const auto runs = read({good, bad});
    ASSERT_EQ(runs.size() + warnings_.size(), 2u) << damaged;
    ASSERT_FALSE(comparison_table(runs).empty());
    ASSERT_TRUE(json::accept(comparison_json(runs)));
  }
  // Names that look like paths of other metrics, and ones that a terminal would obey.
  const auto runs = read({make("names", R"({"loss": {"a/b": 1, "a": 2, "\u001b[2J": 3},
      "activations": {"x": {"kurtosis": 1}, "x/mean_kurtosis": {"kurtosis": 2}}})")});
  EXPECT_TRUE(json::accept(comparison_json(runs)));
  EXPECT_EQ(comparison_table(runs).find('\x1b'), std::string::npos);
}

}  // namespace
}  // namespace quietformer
