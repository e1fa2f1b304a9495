#include "analysis/variants.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <limits>
#include <map>
#include <set>

#include "analysis/run_metrics.h"

namespace quietformer {
namespace {

constexpr std::array<std::string_view, 4> kOfARun{"name", "train.seed", "train.device",
                                                  "train.threads"};

// Everything that makes a run another variant, as text.
std::string identity(const RunRecord& run) {
  std::string text;
  for (const auto& [key, value] : run.config)
    if (std::find(kOfARun.begin(), kOfARun.end(), key) == kOfARun.end())
      text += key + "\n" + value + "\n";
  return text;
}

// "softmax1" of "softmax1-seed1" and "softmax1-seed2"; empty when they have nothing in common.
std::string common_name(const std::vector<const RunRecord*>& runs) {
  std::string name = runs[0]->name;
  bool same = true;
  for (const RunRecord* run : runs) {
    const auto [end, other] =
        std::mismatch(name.begin(), name.end(), run->name.begin(), run->name.end());
    same = same && run->name == runs[0]->name;
    name.erase(end, name.end());
  }
  if (same) return name;
  for (const char* word : {"-_./ ", "seed", "-_./ "}) {
    if (std::string_view(word) == "seed") {
      if (name.ends_with("seed") || name.ends_with("Seed")) name.resize(name.size() - 4);
    } else {
      name.erase(name.find_last_not_of(word) + 1);
    }
  }
  return name;
}

std::string directory_name(const RunRecord& run) {
  const auto path = std::filesystem::path(run.directory).lexically_normal();
  return label_of((path.has_filename() ? path : path.parent_path()).filename().string());
}

void name_variants(Comparison& comparison) {
  std::map<std::string, int> uses;
  for (Variant& variant : comparison.variants) {
    std::vector<const RunRecord*> runs;
    for (const std::size_t run : variant.runs) runs.push_back(&comparison.runs[run]);
    variant.name = common_name(runs);
    if (variant.name.empty()) variant.name = runs[0]->name;
    ++uses[variant.name];
  }
  std::set<std::string> taken;
  for (Variant& variant : comparison.variants) {
    if (uses[variant.name] > 1)
      variant.name += fmt::format(" ({})", directory_name(comparison.runs[variant.runs[0]]));
    const std::string name = variant.name;
    for (int i = 2; !taken.insert(variant.name).second; ++i)
      variant.name = fmt::format("{} #{}", name, i);
  }
}

// All metrics of all runs: those of the first run, and each later run's own behind the metric they
// follow there.
std::vector<std::string> all_metrics(std::span<const RunRecord> runs) {
  std::vector<std::string> names;
  for (const RunRecord& run : runs) {
    auto place = names.begin();
    for (const NamedValue& metric : run.metrics) {
      const auto found = std::find(names.begin(), names.end(), metric.name);
      place = (found == names.end() ? names.insert(place, metric.name) : found) + 1;
    }
  }
  return names;
}

MetricSummary summarise(const Comparison& comparison, const Variant& variant,
                        const std::string& name) {
  MetricSummary summary{name, 0, std::numeric_limits<double>::quiet_NaN(), 0};
  std::vector<double> values;
  for (const std::size_t run : variant.runs)
    if (const double* value = find_value(comparison.runs[run].metrics, name))
      values.push_back(*value);
  summary.count = static_cast<int>(values.size());
  if (values.empty()) return summary;
  if (std::equal(values.begin() + 1, values.end(), values.begin())) {  // exactly, not nearly
    summary.mean = values[0];
    if (values.size() > 1) summary.deviation = 0;
    return summary;
  }
  for (const double value : values) summary.mean += value / static_cast<double>(values.size());
  double squares = 0;
  for (const double value : values) squares += (value - summary.mean) * (value - summary.mean);
  summary.deviation = std::sqrt(squares / static_cast<double>(values.size() - 1));
  return summary;
}

// A mean curve for every curve that all the runs have.
std::vector<Curve> mean_curves(const Comparison& comparison, const Variant& variant,
                               std::vector<Curve> RunRecord::*curves) {
  std::vector<Curve> means;
  if (variant.runs.size() < 2) return means;
  for (const Curve& first : comparison.runs[variant.runs[0]].*curves) {
    std::map<std::int64_t, std::pair<double, std::size_t>> sums;
    for (const std::size_t index : variant.runs)
      for (const Curve& curve : comparison.runs[index].*curves) {
        if (curve.name != first.name) continue;
        for (std::size_t i = 0; i < curve.steps.size(); ++i) {
          auto& [sum, count] = sums[curve.steps[i]];
          sum += curve.values[i];
          ++count;
        }
      }
    Curve mean{first.name, {}, {}};
    for (const auto& [step, entry] : sums) {
      if (entry.second != variant.runs.size()) continue;
      mean.steps.push_back(step);
      mean.values.push_back(entry.first / static_cast<double>(entry.second));
    }
    if (!mean.steps.empty()) means.push_back(std::move(mean));
  }
  return means;
}

std::string value_of(const RunRecord& run, const std::string& key) {
  for (const auto& [name, value] : run.config)
    if (name == key) return value;
  return {};
}

std::vector<ConfigDifference> config_differences(const Comparison& comparison) {
  std::vector<ConfigDifference> differences;
  std::set<std::string> seen;
  for (const Variant& variant : comparison.variants)
    for (const auto& [key, ignored] : comparison.runs[variant.runs[0]].config) {
      if (!seen.insert(key).second || key == "name") continue;
      ConfigDifference row{key, {}};
      for (const Variant& other : comparison.variants) {
        std::string words;
        std::set<std::string> values;
        for (const std::size_t run : other.runs) {
          const std::string value = value_of(comparison.runs[run], key);
          if (values.insert(value).second) words += (words.empty() ? "" : ", ") + value;
        }
        row.values.push_back(std::move(words));
      }
      const bool equal = std::all_of(row.values.begin(), row.values.end(),
                                     [&](const auto& value) { return value == row.values[0]; });
      if (!equal) differences.push_back(std::move(row));
    }
  return differences;
}

}  // namespace

Comparison compare(std::vector<RunRecord> runs, Grouping grouping) {
  Comparison comparison;
  comparison.runs = std::move(runs);
  std::map<std::string, std::size_t> places;
  for (std::size_t i = 0; i < comparison.runs.size(); ++i) {
    const RunRecord& run = comparison.runs[i];
    const std::string key = grouping == Grouping::none ? std::to_string(i) : identity(run);
    const auto [place, added] = places.emplace(key, comparison.variants.size());
    if (added) comparison.variants.push_back({"", run.attention, {}, {}, {}, {}});
    comparison.variants[place->second].runs.push_back(i);
  }
  name_variants(comparison);
  comparison.metrics = all_metrics(comparison.runs);
  for (Variant& variant : comparison.variants) {
    for (const std::string& name : comparison.metrics) {
      MetricSummary summary = summarise(comparison, variant, name);
      if (summary.count > 0) variant.metrics.push_back(std::move(summary));
    }
    variant.log = mean_curves(comparison, variant, &RunRecord::log);
    variant.statistics = mean_curves(comparison, variant, &RunRecord::statistics);
  }
  comparison.differences = config_differences(comparison);
  return comparison;
}

const MetricSummary* find_metric(const Variant& variant, const std::string& name) {
  for (const MetricSummary& metric : variant.metrics)
    if (metric.name == name) return &metric;
  return nullptr;
}

bool is_best(const Comparison& comparison, const Variant& variant, const std::string& metric) {
  const Better better = describe_metric(metric).better;
  const MetricSummary* own = find_metric(variant, metric);
  if (better == Better::neither || own == nullptr) return false;
  bool beats_another = false;
  for (const Variant& other : comparison.variants) {
    const MetricSummary* value = find_metric(other, metric);
    if (value == nullptr) continue;
    const double lead = better == Better::lower ? value->mean - own->mean : own->mean - value->mean;
    if (lead < 0) return false;
    beats_another = beats_another || lead > 0;
  }
  return beats_another;
}

}  // namespace quietformer
