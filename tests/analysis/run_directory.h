// Run directories of a few numbers, for tests of what reads them.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "analysis/variants.h"
#include "core/check.h"
#include "core/log.h"

namespace quietformer {

constexpr const char* kResults = R"({
  "loss": {"validation": 2.5, "test": 2.25}, "bits_per_byte": {"validation": 3.6},
  "sink_mass": 0.25,
  "activations": {
    "embedding": {"n_samples": 4, "kurtosis": 1, "max_abs": 3, "infinity_norm": 2.5,
                  "outliers_6": 0, "outliers_6_sigma": null},
    "blocks.0.output": {"kurtosis": 30, "max_abs": 7.5, "outliers_6": 3, "outliers_6_sigma": 1,
      "infinity_norm": 6, "histogram": {"bins_per_octave": 2, "lowest_exponent": -1, "below": 1,
                                        "counts": [4, 2, 0, 1], "above": 0}},
    "blocks.11.output": {"kurtosis": 10, "max_abs": 9, "outliers_6": 5, "outliers_6_sigma": 2},
    "blocks.2.output": {"kurtosis": null, "max_abs": null},
    "blocks.2.attention.sink_mass": {"n_samples": 4, "mean": 0.25}},
  "outlier_dimensions": {"count": 2, "channels": [3, 7]},
  "attention": {"blocks.0.attention": {"first_token_mass": [0.25, 0.75], "entropy": [1, null]}},
  "environment": {"commit": "abc", "device": "CPU"},
  "weights": {"w": {"n_weights": 3, "kurtosis": 0.5, "max_abs": 2, "outliers_6_sigma": 4}}})";
constexpr const char* kConfig =
    "name: softmax1\nattention: {score: dot, normalizer: softmax_n, n: 1.0}\n"
    "train: {seed: 1, device: auto, threads: 2}\n";
constexpr const char* kLog =
    "{\"step\": 0, \"loss\": 5.5, \"tokens_per_second\": 1}\n"
    "{\"step\": 10, \"loss\": 4.5, \"tokens_per_second\": 50}\n{\"event\": \"evaluation\"}\n"
    "{\"step\": 20, \"loss\": 4, \"validation_loss\": 4.25, \"tokens_per_second\": 70}\n";
constexpr const char* kQuantized = R"({"checkpoint": "c", "split": "validation", "tokens": 10,
  "schemes": [{"scheme": "W8A8", "weights": {"bits": 8, "per": "tensor"},
    "activations": {"bits": 8, "range": "percentile"}, "loss": {"float": 2.5, "quantized": 2.75},
    "bits_per_byte": {"float": 3.6, "quantized": 3.9, "gap": 0.3},
    "sites": [{"name": "blocks.0.mlp.down", "contribution": 0.125}, {"name": "head", "contribution": -0.5}]}]})";

class RunDirectories : public testing::Test {
 protected:
  explicit RunDirectories(const char* name)
      : folder_(std::filesystem::path(testing::TempDir()) / name) {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  ~RunDirectories() override { std::filesystem::remove_all(folder_); }

  void write(const std::string& run, const char* file, const std::string& text) const {
    std::filesystem::create_directories(folder_ / run);
    std::filesystem::remove(folder_ / run / file);  // rewriting in place may wait for the disk
    std::ofstream(folder_ / run / file, std::ios::binary) << text;
  }
  std::string make(const std::string& run, const std::string& results = kResults,
                   const std::string& config = kConfig, const std::string& log = kLog) const {
    write(run, "results.json", results);
    write(run, "config.yaml", config);
    write(run, "log.jsonl", log);
    return (folder_ / run).string();
  }
  /// A run of another name, seed and loss, else the same.
  std::string make_seed(const std::string& run, int seed, double loss) const {
    nlohmann::ordered_json results = nlohmann::ordered_json::parse(kResults);
    results["loss"]["validation"] = loss;
    std::string config = kConfig;
    config.replace(config.find("seed: 1"), 7, "seed: " + std::to_string(seed));
    config.replace(config.find("softmax1"), 8, run);
    return make(run, results.dump(), config);
  }
  /// What read_run_records() makes of them; its warnings are in warnings_.
  std::vector<RunRecord> read(const std::vector<std::string>& directories) {
    warnings_.clear();
    const ScopedLogSink sink(
        [this](LogLevel, const std::string& line) { warnings_.push_back(line); });
    return read_run_records(directories);
  }
  Comparison compared(const std::vector<std::string>& directories,
                      Grouping grouping = Grouping::by_config) {
    return compare(read(directories), grouping);
  }
  /// That the file is named in the only warning, which is one line.
  void expect_one_warning_of(const std::string& file) const {
    ASSERT_EQ(warnings_.size(), 1u) << file;
    EXPECT_NE(warnings_[0].find(file), std::string::npos) << warnings_[0];
    EXPECT_EQ(warnings_[0].find('\n'), std::string::npos);
  }

  std::filesystem::path folder_;
  std::vector<std::string> warnings_;
};

}  // namespace quietformer
