// Several finished runs side by side.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "analysis/named_value.h"

namespace quietformer {

/// What is compared of one run directory. The metrics are a flat list of paths, in this order:
///   loss/SPLIT, bits_per_byte/SPLIT            results.json
///   tokens_per_second                          median over log.jsonl
///   sink_mass, row_sum                         results.json, mean over layers
///   activations/FAMILY/{mean_kurtosis, max_kurtosis, max_abs, outliers_6, outliers_6_sigma}
///   weights/{mean_kurtosis, max_kurtosis, max_abs, outliers_6_sigma}
/// A family is all sites whose names differ in numbers only: "blocks.*.mlp.output". Averages and
/// maxima go over its sites, leaving out nulls; outliers are summed.
struct RunSummary {
  std::string directory;
  std::string name;       // of its config
  std::string attention;  // "dot softmax_n n=1"
  std::vector<NamedValue> metrics;
};

/// Reads results.json, config.yaml and log.jsonl of every directory. What is missing, truncated or
/// not ours is one warning naming the file: without a readable results.json or config.yaml the
/// directory is left out, without the log only its speed. InputError when no directory is left.
std::vector<RunSummary> read_runs(std::span<const std::string> directories);

/// A column per run, a row per metric; behind the first run's column, the difference to it.
std::string comparison_table(std::span<const RunSummary> runs);

/// {"runs": [{directory, name, attention, metrics nested by their paths, "delta": the same nesting,
/// differences to the first run}]}
std::string comparison_json(std::span<const RunSummary> runs);

}  // namespace quietformer
