#include "analysis/compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "analysis/table.h"
#include "core/check.h"
#include "core/config.h"
#include "core/file.h"
#include "core/log.h"

namespace quietformer {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kMaxResults = std::size_t{64} << 20;  // bytes of a results.json

Json parse_object(const std::string& path) {
  const Json root = Json::parse(read_file(path, kMaxResults), nullptr, false);
  if (root.is_discarded()) throw InputError(path + ": not JSON (truncated?)");
  if (!root.is_object()) throw InputError(path + ": expected a JSON object");
  return root;
}

// A member that must be an object; an absent one reads as empty.
const Json& section(const Json& root, const char* key, const std::string& path) {
  static const Json kEmpty = Json::object();
  const auto found = root.find(key);
  if (found == root.end()) return kEmpty;
  if (!found->is_object()) throw InputError(fmt::format("{}: {}: expected an object", path, key));
  return *found;
}

std::optional<double> number(const Json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_number()) return std::nullopt;
  return found->get<double>();
}

// A name out of a file as part of a metric's path.
std::string label(std::string_view text) {
  std::string name = one_line(text, 100);
  std::replace(name.begin(), name.end(), '/', '_');
  return name;
}

std::string family_of(std::string_view site) {
  std::string family;
  for (std::size_t begin = 0; begin <= site.size();) {
    const std::size_t end = std::min(site.find('.', begin), site.size());
    const std::string_view part = site.substr(begin, end - begin);
    const bool is_number = !part.empty() && part.find_first_not_of("0123456789") == part.npos;
    family.append(begin > 0 ? "." : "").append(is_number ? "*" : part);
    begin = end + 1;
  }
  return family;
}

// Statistics of several sites or parameters in a few numbers.
struct Family {
  std::string name = {};
  double kurtosis_sum = 0, kurtosis_max = -INFINITY, max_abs = -INFINITY;
  std::optional<double> outliers = {}, sigma_outliers = {};
  int kurtosis_count = 0;

  void add(const Json& entry) {
    if (!entry.is_object()) return;
    if (const auto kurtosis = number(entry, "kurtosis")) {
      kurtosis_sum += *kurtosis;
      kurtosis_max = std::max(kurtosis_max, *kurtosis);
      ++kurtosis_count;
    }
    max_abs = std::max(max_abs, number(entry, "max_abs").value_or(-INFINITY));
    const auto sum = [&](std::optional<double>& into, const char* key) {
      if (const auto value = number(entry, key)) into = into.value_or(0) + *value;
    };
    sum(outliers, "outliers_6");
    sum(sigma_outliers, "outliers_6_sigma");
  }
  void publish(const std::string& path, std::vector<NamedValue>& metrics) const {
    if (kurtosis_count > 0) {
      metrics.push_back({path + "/mean_kurtosis", kurtosis_sum / kurtosis_count});
      metrics.push_back({path + "/max_kurtosis", kurtosis_max});
    }
    if (std::isfinite(max_abs)) metrics.push_back({path + "/max_abs", max_abs});
    if (outliers) metrics.push_back({path + "/outliers_6", *outliers});
    if (sigma_outliers) metrics.push_back({path + "/outliers_6_sigma", *sigma_outliers});
  }
};

void add_statistics(const Json& root, const std::string& path, std::vector<NamedValue>& metrics) {
  std::vector<Family> families;
  for (const auto& [site, entry] : section(root, "activations", path).items()) {
    const std::string name = label(family_of(site));
    auto family = std::find_if(families.begin(), families.end(),
                               [&](const Family& f) { return f.name == name; });
    if (family == families.end()) family = families.insert(family, Family{.name = name});
    family->add(entry);
  }
  for (const Family& family : families) family.publish("activations/" + family.name, metrics);
  Family weights;
  for (const auto& [name, entry] : section(root, "weights", path).items()) weights.add(entry);
  weights.publish("weights", metrics);
}

std::string describe(const ConfigValue& value) {
  switch (value.kind) {
    case ConfigValue::Kind::null:
      return "?";
    case ConfigValue::Kind::scalar:
      return one_line(value.text, 40);
    case ConfigValue::Kind::list:
      return "per head";
    case ConfigValue::Kind::map:
      return value.find("learned") != nullptr ? "learned" : "scheduled";
  }
  return "?";
}

// Name and attention of a run from its config.yaml.
void add_config(const std::string& path, RunSummary& run) {
  const ConfigValue root = parse_yaml(read_file(path, std::size_t{1} << 20), path);
  const ConfigValue *name = root.find("name"), *attention = root.find("attention");
  if (name == nullptr || attention == nullptr)
    throw InputError(path + ": expected the config of a run, with name and attention");
  run.name = describe(*name);
  const auto part = [&](const char* key) -> std::string {
    const ConfigValue* value = attention->find(key);
    return value == nullptr ? "?" : describe(*value);
  };
  const std::string normalizer = part("normalizer");
  run.attention = fmt::format("{} {}", part("score"), normalizer);
  if (normalizer == "softmax_n") run.attention += " n=" + part("n");
  if (normalizer == "sigmoid") run.attention += " bias=" + part("sigmoid_bias");
  if (normalizer == "clipped_softmax")
    run.attention += fmt::format(" gamma={} zeta={}", part("gamma"), part("zeta"));
}

// The median: neither the first steps nor pauses for evaluation weigh in.
std::optional<double> median_speed(const std::string& path) {
  const std::string text = read_file(path);
  std::vector<double> speeds;
  std::size_t line_number = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const Json line = Json::parse(text.begin() + static_cast<std::ptrdiff_t>(begin),
                                  text.begin() + static_cast<std::ptrdiff_t>(end), nullptr, false);
    ++line_number;
    if (line.is_object()) {
      if (const auto speed = number(line, "tokens_per_second")) speeds.push_back(*speed);
    } else {
      throw InputError(fmt::format("{}:{}: not a JSON object (truncated?)", path, line_number));
    }
    begin = end + 1;
  }
  if (speeds.empty()) return std::nullopt;
  std::sort(speeds.begin(), speeds.end());
  return (speeds[speeds.size() / 2] + speeds[(speeds.size() - 1) / 2]) / 2;
}

RunSummary read_run(const std::string& directory) {
  RunSummary run;
  run.directory = directory;
  const std::string path = directory + "/results.json";
  const Json root = parse_object(path);
  if (!root.contains("loss") || !root.contains("activations"))
    throw InputError(path + ": expected the results of a run, with loss and activations");
  add_config(directory + "/config.yaml", run);
  for (const char* key : {"loss", "bits_per_byte"})
    for (const auto& [split, value] : section(root, key, path).items())
      if (value.is_number())
        run.metrics.push_back({fmt::format("{}/{}", key, label(split)), value.get<double>()});
  try {
    if (const auto speed = median_speed(directory + "/log.jsonl"))
      run.metrics.push_back({"tokens_per_second", *speed});
  } catch (const InputError& error) {
    log_warning(error.what());
  }
  for (const char* key : {"sink_mass", "row_sum"})
    if (const auto value = number(root, key)) run.metrics.push_back({key, *value});
  add_statistics(root, path, run.metrics);
  return run;
}

const double* find(const RunSummary& run, const std::string& metric) {
  for (const NamedValue& m : run.metrics)
    if (m.name == metric) return &m.value;
  return nullptr;
}

// All metrics of all runs: those of the first run, and each later run's own behind the metric they
// follow there.
std::vector<std::string> all_metrics(std::span<const RunSummary> runs) {
  std::vector<std::string> names;
  for (const RunSummary& run : runs) {
    auto place = names.begin();
    for (const NamedValue& metric : run.metrics) {
      const auto found = std::find(names.begin(), names.end(), metric.name);
      place = (found == names.end() ? names.insert(place, metric.name) : found) + 1;
    }
  }
  return names;
}

void put(Json& object, const std::string& path, double value) {
  Json* place = &object;
  std::size_t begin = 0;
  for (std::size_t slash; (slash = path.find('/', begin)) != std::string::npos; begin = slash + 1)
    place = &(*place)[path.substr(begin, slash - begin)];
  (*place)[path.substr(begin)] = value;
}

}  // namespace

std::vector<RunSummary> read_runs(std::span<const std::string> directories) {
  std::vector<RunSummary> runs;
  for (const std::string& directory : directories) {
    try {
      runs.push_back(read_run(directory));
    } catch (const InputError& error) {
      log_warning(fmt::format("{} (left out)", error.what()));
    }
  }
  if (runs.empty()) throw InputError("no finished run to compare");
  return runs;
}

std::string comparison_table(std::span<const RunSummary> runs) {
  Table table;
  std::vector<std::string> names{""}, attentions{"attention"}, directories{"directory"};
  for (const RunSummary& run : runs) {
    names.push_back(run.name);
    attentions.push_back(run.attention);
    directories.push_back(one_line(run.directory, 60));
  }
  table.add(std::move(names));
  table.add(std::move(directories));
  table.add(std::move(attentions));
  for (const std::string& metric : all_metrics(runs)) {
    std::vector<std::string> row{metric};
    const double* first = find(runs[0], metric);
    for (const RunSummary& run : runs) {
      const double* value = find(run, metric);
      std::string cell = value == nullptr ? "-" : short_number(*value);
      if (value != nullptr && first != nullptr && &run != runs.data()) {
        const double delta = *value - *first;
        cell += fmt::format(" ({}{})", delta < 0 ? "" : "+", short_number(delta));
      }
      row.push_back(std::move(cell));
    }
    table.add(std::move(row));
  }
  return table.text();
}

std::string comparison_json(std::span<const RunSummary> runs) {
  Json root = Json::object();
  root["runs"] = Json::array();
  for (const RunSummary& run : runs) {
    Json entry = {{"directory", run.directory}, {"name", run.name}, {"attention", run.attention}};
    for (const NamedValue& metric : run.metrics) put(entry, metric.name, metric.value);
    entry["delta"] = Json::object();
    for (const NamedValue& metric : run.metrics)
      if (const double* first = find(runs[0], metric.name))
        put(entry["delta"], metric.name, metric.value - *first);
    root["runs"].push_back(std::move(entry));
  }
  return root.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace quietformer
