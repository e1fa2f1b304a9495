// The numbers by which runs are compared, as one flat list of paths.
//
//   loss/SPLIT, bits_per_byte/SPLIT            results.json
//   tokens_per_second                          median over log.jsonl
//   quantized/SCHEME/{loss_gap, bits_per_byte_gap}    quantized.json
//   outliers/{max_kurtosis, mean_kurtosis, infinity_norm, max_abs, outliers_6, outliers_6_sigma,
//     dimensions}                              results.json, over all recorded sites
//   sink_mass, row_sum                         results.json, mean over layers
//   first_token_mass, attention_entropy        results.json, mean over layers and heads
//   activations/FAMILY/{the first six of outliers/}
//   weights/{mean_kurtosis, max_kurtosis, max_abs, outliers_6_sigma}
//
// A family is all sites whose names differ in numbers only: "blocks.*.mlp.output". Means and maxima
// go over sites, leaving out nulls (infinity_norm and max_abs are maxima); outliers are summed.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "analysis/run_record.h"

namespace quietformer {

/// "blocks.*.mlp.output" of "blocks.3.mlp.output".
std::string family_of(std::string_view site);

/// A name out of a file as part of a path or a table: one line, without '/'.
std::string label_of(std::string_view text);

/// The parts of the list that statistics give: outliers/ and activations/ of the run's sites,
/// weights/ of `weights` (one record per parameter).
std::vector<NamedValue> outlier_metrics(const RunRecord& run);
std::vector<NamedValue> family_metrics(const RunRecord& run);
std::vector<NamedValue> weight_metrics(const std::vector<SiteRecord>& weights);

enum class Better : std::uint8_t { lower, higher, neither };

struct MetricInfo {
  std::string group;  // "Quality", "Speed", "Quantisation", "Outliers", "Attention", or a family
  std::string label;  // "Loss, validation"
  std::string unit;   // "nats/token"; empty for a pure number
  Better better = Better::lower;
  bool detail = false;  // of one family or the weights: not for a summary
};
MetricInfo describe_metric(const std::string& path);

/// Finds a value by name.
const double* find_value(const std::vector<NamedValue>& values, std::string_view name);

}  // namespace quietformer
