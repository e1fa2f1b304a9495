// Run directories, whole and damaged ones.
#include "analysis/run_record.h"

#include "analysis/compare.h"
#include "analysis/history.h"
#include "analysis/report.h"
#include "analysis/run_metrics.h"
#include "core/buffer.h"
#include "core/file.h"
#include "core/random.h"
#include "tests/analysis/run_directory.h"

namespace quietformer {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class RunFiles : public RunDirectories {
 protected:
  RunFiles() : RunDirectories("quietformer_run_files") {}
  static double metric(const RunRecord& run, const std::string& name) {
    const double* value = find_value(run.metrics, name);
    if (value == nullptr) ADD_FAILURE() << "no metric " << name;
    return value == nullptr ? 0 : *value;
  }
  static const Curve* curve(const std::vector<Curve>& curves, const std::string& name) {
    for (const Curve& c : curves)
      if (c.name == name) return &c;
    return nullptr;
  }
  // Statistics of two layers whose largest values are the step and 10 minus the step.
  void write_statistics(const std::string& run) const {
    AnalysisConfig config;
    config.sites = {"**"};
    ActivationStatistics statistics(config, 1);
    StatisticsHistory history;
    for (int step : {2, 4, 9}) {
      statistics.begin_step();
      for (int layer : {0, 1}) {
        OwnedTensor x(DType::f32, {1, 2, 4});
        for (int i = 0; i < 8; ++i) x.as<float>()[i] = float(i % 3) / 8;
        x.as<float>()[0] = float(layer == 0 ? step : 10 - step);
        statistics.record(Context(), "blocks." + std::to_string(layer) + ".output", x);
      }
      statistics.end_step();
      history.add(step, statistics.latest());
    }
    history.write((folder_ / run / "stats.h5").string());
  }
};

TEST_F(RunFiles, SummarisesARun) {
  const std::string directory = make("a");
  write("a", "quantized.json", kQuantized);
  const auto runs = read({directory});
  EXPECT_TRUE(warnings_.empty());
  ASSERT_EQ(runs.size(), 1u);
  const RunRecord& run = runs[0];
  EXPECT_EQ(run.name, "softmax1");
  EXPECT_EQ(run.seed, "1");
  EXPECT_EQ(run.attention, "dot softmax_n n=1.0");
  EXPECT_EQ(metric(run, "loss/test"), 2.25);
  EXPECT_EQ(metric(run, "bits_per_byte/validation"), 3.6);
  EXPECT_EQ(metric(run, "tokens_per_second"), 50);
  EXPECT_EQ(metric(run, "sink_mass"), 0.25);
  EXPECT_EQ(metric(run, "first_token_mass"), 0.5);
  EXPECT_EQ(metric(run, "attention_entropy"), 1);
  EXPECT_EQ(metric(run, "outliers/max_kurtosis"), 30);
  EXPECT_EQ(metric(run, "outliers/mean_kurtosis"), 41.0 / 3);
  EXPECT_EQ(metric(run, "outliers/infinity_norm"), 6);
  EXPECT_EQ(metric(run, "outliers/outliers_6"), 8);
  EXPECT_EQ(metric(run, "outliers/dimensions"), 2);
  EXPECT_EQ(metric(run, "quantized/W8A8 percentile/loss_gap"), 0.25);
  EXPECT_EQ(metric(run, "quantized/W8A8 percentile/bits_per_byte_gap"), 0.3);
  EXPECT_EQ(metric(run, "activations/blocks.*.output/mean_kurtosis"), 20);
  EXPECT_EQ(metric(run, "activations/blocks.*.output/max_kurtosis"), 30);
  EXPECT_EQ(metric(run, "activations/blocks.*.output/max_abs"), 9);
  EXPECT_EQ(metric(run, "activations/blocks.*.output/outliers_6"), 8);
  EXPECT_EQ(metric(run, "activations/blocks.*.output/outliers_6_sigma"), 3);
  EXPECT_EQ(metric(run, "activations/embedding/max_kurtosis"), 1);
  EXPECT_EQ(metric(run, "weights/outliers_6_sigma"), 4);
  const Curve* loss = curve(run.log, "loss");
  ASSERT_NE(loss, nullptr);
  EXPECT_EQ(loss->steps, (std::vector<std::int64_t>{0, 10, 20}));
  EXPECT_EQ(loss->values, (std::vector<double>{5.5, 4.5, 4}));
  EXPECT_EQ(curve(run.log, "validation_loss")->steps, (std::vector<std::int64_t>{20}));
  EXPECT_EQ(run.environment.at(1).second, "CPU");
  ASSERT_EQ(run.schemes.size(), 1u);
  EXPECT_EQ(run.schemes[0].weights, "8 bits per tensor");
  EXPECT_EQ(run.schemes[0].sites.at(1).contribution, -0.5);
}

TEST_F(RunFiles, WhatAnAttentionIsCalled) {
  for (const auto& [config, words] : std::vector<std::pair<std::string, std::string>>{
           {"score: dot, normalizer: softmax_n, n: [0, 1]", "dot softmax_n n=per head"},
           {"score: cosine, normalizer: sigmoid, sigmoid_bias: {learned: true}",
            "cosine sigmoid bias=learned"},
           {"score: dot, normalizer: clipped_softmax, gamma: -0.03, zeta: 1, gate: none",
            "dot clipped_softmax gamma=-0.03 zeta=1"},
           {"score: dot, normalizer: softmax_n, n: 0, gate: head", "dot softmax_n n=0, head gate"}})
    EXPECT_EQ(read({make("a", kResults, "name: x\nattention: {" + config + "}\n")})[0].attention,
              words);
}

TEST_F(RunFiles, StatisticsOverTimeWithTheLargestOfAllLayers) {
  const std::string directory = make("a");
  write_statistics("a");
  const auto runs = read({directory});
  EXPECT_TRUE(warnings_.empty());
  const Curve* first = curve(runs[0].statistics, "blocks.0.output/max_abs");
  ASSERT_NE(first, nullptr);
  EXPECT_EQ(first->steps, (std::vector<std::int64_t>{2, 4, 9}));
  EXPECT_EQ(first->values, (std::vector<double>{2, 4, 9}));
  const Curve* largest = curve(runs[0].statistics, "blocks.*.output/max_abs");
  ASSERT_NE(largest, nullptr);
  EXPECT_EQ(largest->values, (std::vector<double>{8, 6, 9}));
}

TEST_F(RunFiles, ABadDirectoryIsOneWarningAndTheOthersStay) {
  const std::string good = make("good");
  const std::string results(kResults);
  const auto with = [&](const char* key, const char* value) {
    json changed = json::parse(kResults);
    changed[key] = json::parse(value);
    return changed.dump();
  };
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
      {make("heads", with("attention", R"({"a": {"entropy": ["x"]}})")), "results.json"},
      {make("sizes", with("activations", R"({"a": {"histogram": {"counts": []}}})")),
       "results.json"},
      {make("noise", "\xff\xfe\x01\x02"), "results.json"},
      {no_config, "config.yaml"},
      {make("other_config", kResults, "a: 1"), "config.yaml"},
      {make("broken_config", kResults, "a: ["), "config.yaml"},
  };
  for (const auto& [directory, file] : bad) {
    EXPECT_EQ(read({directory, good}).size(), 1u) << directory;
    expect_one_warning_of(directory + "/" + file);
    EXPECT_THROW(read({directory}), InputError);
  }
  EXPECT_EQ(read({good, good + "/"}).size(), 1u);
  expect_one_warning_of("given twice");
}

TEST_F(RunFiles, WithoutALogOnlyTheSpeedIsMissing) {
  const std::string absent = make("absent_log");
  fs::remove(folder_ / "absent_log/log.jsonl");
  for (const std::string& directory : {absent, make("cut_log", kResults, kConfig, "{\"step\": ")}) {
    const auto runs = read({directory});
    ASSERT_EQ(runs.size(), 1u);
    expect_one_warning_of(directory + "/log.jsonl");
    EXPECT_EQ(find_value(runs[0].metrics, "tokens_per_second"), nullptr);
  }
  EXPECT_EQ(read({make("no_speed", kResults, kConfig, "{\"step\": 1}\n")}).size(), 1u);
  EXPECT_TRUE(warnings_.empty());
}

TEST_F(RunFiles, OfACutLogTheWholeLinesCount) {
  const auto runs =
      read({make("half", kResults, kConfig, std::string(kLog) + "{\"step\": 30, \"lo")});
  expect_one_warning_of("half/log.jsonl:5");
  EXPECT_EQ(curve(runs[0].log, "loss")->steps.size(), 3u);
  EXPECT_EQ(metric(runs[0], "tokens_per_second"), 50);
  read({make("back", kResults, kConfig,
             "{\"step\": 3, \"loss\": 1}\n{\"step\": 3, \"loss\": 1}\n")});
  expect_one_warning_of("back/log.jsonl:2");
}

TEST_F(RunFiles, DamagedStatisticsAndQuantisationAreLeftOutByName) {
  const std::string directory = make("a"),
                    config = std::string(kConfig) + "analysis: {every: 10}\n";
  write_statistics("a");
  const std::string whole = read_file((folder_ / "a/stats.h5").string());
  for (const std::string& text : {std::string(), whole.substr(0, whole.size() / 2),
                                  std::string("not HDF5"), whole.substr(512)}) {
    write("a", "stats.h5", text);
    const auto runs = read({directory});
    ASSERT_EQ(runs.size(), 1u);
    expect_one_warning_of(directory + "/stats.h5");
    EXPECT_TRUE(runs[0].statistics.empty());
  }
  EXPECT_EQ(read({make("kept", kResults, config)}).size(), 1u);
  expect_one_warning_of("kept/stats.h5");  // absent, though its config keeps statistics

  fs::remove(folder_ / "a/stats.h5");
  const std::string quantized = kQuantized;
  for (const std::string& text :
       {std::string("{}"), std::string("[]"), std::string("{\"schemes\": 3}"),
        std::string("{\"schemes\": [3]}"), quantized.substr(0, 100),
        std::string("{\"schemes\": [{\"scheme\": \"W8A8\", \"loss\": {}}]}")}) {
    write("a", "quantized.json", text);
    const auto runs = read({directory});
    ASSERT_EQ(runs.size(), 1u);
    expect_one_warning_of(directory + "/quantized.json");
    EXPECT_TRUE(runs[0].schemes.empty());
  }
}

TEST_F(RunFiles, DamageNeverBreaksIt) {
  const std::string good = make("good"), bad = make("damaged");
  const std::vector<std::pair<const char*, std::string>> files{
      {"results.json", kResults}, {"quantized.json", kQuantized}, {"log.jsonl", kLog}};
  const RandomKey key = stream_key(4, RandomPurpose::initialisation, 0, 0);
  for (std::uint32_t i = 0; i < 600; ++i) {
    const auto& [file, text] = files[i % files.size()];
    const Philox4 bits = philox(key, i, 0, 0, 0);
    std::string damaged = text;
    damaged[bits.word[0] % damaged.size()] = "\"{}[]:,/0a\n"[bits.word[1] % 11];
    if (i % 4 == 0) damaged[bits.word[2] % damaged.size()] = char(bits.word[3]);
    if (i % 7 == 0) damaged.resize(bits.word[3] % damaged.size());
    write("damaged", file, damaged);
    const Comparison comparison = compared({good, bad});
    ASSERT_LE(comparison.runs.size(), 2u);
    ASSERT_LE(warnings_.size(), 1u);
    ASSERT_GE(comparison.runs.size() + warnings_.size(), 2u) << damaged;
    ASSERT_FALSE(comparison_table(comparison).empty());
    ASSERT_TRUE(json::accept(comparison_json(comparison)));
    ASSERT_TRUE(json::accept(report_data(comparison)));
    write("damaged", file, text);
  }
}

}  // namespace
}  // namespace quietformer
