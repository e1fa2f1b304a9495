// Runs that differ in their seed alone are one variant.
#pragma once

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "analysis/run_record.h"

namespace quietformer {

/// A metric over the runs of a variant that have it.
struct MetricSummary {
  std::string name;
  double mean = 0;
  double deviation = 0;  // of a sample (n - 1); NaN of a single run
  int count = 0;
};

struct Variant {
  std::string name;               // unique in a comparison
  std::string attention;          // of its first run
  std::vector<std::size_t> runs;  // of Comparison::runs
  std::vector<MetricSummary> metrics;
  /// Mean curves, over the steps that all its runs have; empty for a single run.
  std::vector<Curve> log, statistics;
};

enum class Grouping : std::uint8_t { by_config, none };

/// A config key whose values differ between variants; a value per variant, "" where it is absent.
struct ConfigDifference {
  std::string key;
  std::vector<std::string> values;
};

struct Comparison {
  std::vector<RunRecord> runs;
  std::vector<Variant> variants;     // in order of their first run
  std::vector<std::string> metrics;  // of all variants, in one order
  std::vector<ConfigDifference> differences;
};

/// by_config: runs whose resolved configs are equal but for name, train.seed, train.device and
/// train.threads are one variant, named by what their names have in common. none: each run is one.
Comparison compare(std::vector<RunRecord> runs, Grouping grouping);

/// Null when the variant has no such metric.
const MetricSummary* find_metric(const Variant& variant, const std::string& name);

/// Whether the variant's mean is the best of all; false where a metric has no better side, or when
/// there is nothing to choose.
bool is_best(const Comparison& comparison, const Variant& variant, const std::string& metric);

}  // namespace quietformer
