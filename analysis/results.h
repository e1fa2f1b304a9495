// results.json: what a finished run reports.
//
//   {"loss": {SPLIT: nats per token}, "bits_per_byte": {SPLIT: ...},      (byte models)
//    "sink_mass": mean over layers, "row_sum": ...,                        (where recorded)
//    "activations": {SITE: {n_samples, kurtosis, skewness, variance, mean, max_abs, ...}},
//    "outlier_dimensions": {"count", "channels", "layers", "positions"},   (of FinalResults, and
//    "attention": {LAYER: {"first_token_mass", "row_sum", "sink_mass", "entropy"}},    where there
//                                                   are some, "histogram" of the activations too)
//    "weights": {PARAMETER: {n_weights, kurtosis, skewness, variance, mean, max_abs, ...}},
//    "environment": {"version", "commit", "device", ...: text}}            (where known)
//
// The quantities are those of analysis/quantities.h. A number that is not finite is null, with one
// warning for all of them (JSON knows no NaN); so is a count that is not known, without a warning.
#pragma once

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "analysis/activation_statistics.h"
#include "analysis/final_results.h"
#include "analysis/weight_statistics.h"

namespace quietformer {

struct SplitLoss {
  std::string split;  // "validation", "test", ...
  double loss = 0;    // nats per token
};

struct RunResults {
  std::vector<SplitLoss> losses;
  bool bytes = false;  // a token is a byte: report bits per byte
  std::vector<std::pair<std::string, std::string>> environment;  // "commit", "device", ...
  std::span<const SiteStatistics> activations;
  std::span<const WeightStatistics> weights;
  const FinalResults* final = nullptr;
};

/// Replaces `path` atomically. RunError when it cannot be written.
void write_results(const std::string& path, const RunResults& results);

/// The text that write_results() writes; `name` is for the warning.
std::string results_json(const RunResults& results, const std::string& name);

/// {"weights": {...}} alone.
std::string weights_json(std::span<const WeightStatistics> weights, const std::string& name);

/// A line per parameter, for people.
std::string weights_table(std::span<const WeightStatistics> weights);

}  // namespace quietformer
