#include "analysis/compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "analysis/run_metrics.h"
#include "analysis/table.h"
#include "core/log.h"

namespace quietformer {
namespace {

using Json = nlohmann::ordered_json;

void put(Json& object, const std::string& path, Json value) {
  Json* place = &object;
  std::size_t begin = 0;
  for (std::size_t slash; (slash = path.find('/', begin)) != std::string::npos; begin = slash + 1)
    place = &(*place)[path.substr(begin, slash - begin)];
  (*place)[path.substr(begin)] = std::move(value);
}

// Of a variant's mean to the first variant's; NaN when one of them has no such metric.
double delta(const Comparison& comparison, const MetricSummary& metric) {
  const MetricSummary* first = find_metric(comparison.variants[0], metric.name);
  return first == nullptr ? NAN : metric.mean - first->mean;
}

std::string signed_number(double value) {
  return (value < 0 ? "" : "+") + short_number(value);
}

// A deviation: two digits say all it knows.
std::string two_digits(double value) {
  return std::isfinite(value) && std::abs(value) < 100 ? fmt::format("{:.2g}", value)
                                                       : short_number(value);
}

// "2.25 ± 0.01 (+0.25)"
std::string cell(const Comparison& comparison, const Variant& variant, const std::string& name,
                 const char* bold) {
  const MetricSummary* metric = find_metric(variant, name);
  if (metric == nullptr) return "-";
  std::string text = short_number(metric->mean);
  if (metric->count > 1) text += " ± " + two_digits(metric->deviation);
  if (is_best(comparison, variant, name)) text = bold + text + bold;
  const double difference = delta(comparison, *metric);
  if (&variant != comparison.variants.data() && std::isfinite(difference))
    text += fmt::format(" ({})", signed_number(difference));
  return text;
}

// RFC 4180.
std::string quoted(const std::string& text) {
  if (text.find_first_of("\",\n\r") == text.npos) return text;
  std::string out = "\"";
  for (const char c : text) out += c == '"' ? "\"\"" : std::string(1, c);
  return out + "\"";
}

// Of full precision; empty for what is not finite.
std::string exact(double value) {
  return std::isfinite(value) ? fmt::format("{}", value) : std::string();
}

// Text out of files as a cell of a Markdown table.
std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : one_line(text)) {
    if (std::string_view("\\`*_{}[]<>|#~").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

std::string row_of(const std::vector<std::string>& cells) {
  std::string line = "|";
  for (const std::string& text : cells) line += " " + text + " |";
  return line + "\n";
}

std::string rule_of(std::size_t columns, const char* first, const char* other) {
  std::string line = "|";
  for (std::size_t c = 0; c < columns; ++c) line += std::string(c == 0 ? first : other) + "|";
  return line + "\n";
}

const char* word_for(Better better) {
  return better == Better::lower ? "lower" : better == Better::higher ? "higher" : "neither";
}

}  // namespace

std::string comparison_table(const Comparison& comparison) {
  Table table;
  std::vector<std::string> names{""}, attentions{"attention"}, directories{"runs"};
  for (const Variant& variant : comparison.variants) {
    names.push_back(variant.name);
    attentions.push_back(variant.attention);
    const std::string& first = comparison.runs[variant.runs[0]].directory;
    directories.push_back(variant.runs.size() == 1 ? one_line(first, 60)
                                                   : fmt::format("{} runs", variant.runs.size()));
  }
  table.add(std::move(names));
  table.add(std::move(directories));
  table.add(std::move(attentions));
  for (const std::string& metric : comparison.metrics) {
    std::vector<std::string> row{metric};
    for (const Variant& variant : comparison.variants)
      row.push_back(cell(comparison, variant, metric, ""));
    table.add(std::move(row));
  }
  return table.text();
}

std::string comparison_json(const Comparison& comparison) {
  Json root = {{"format", 1},
               {"metrics", Json::object()},
               {"variants", Json::array()},
               {"runs", Json::array()},
               {"config_differences", Json::array()}};
  for (const std::string& name : comparison.metrics) {
    const MetricInfo info = describe_metric(name);
    root["metrics"][name] = {
        {"label", info.label}, {"unit", info.unit}, {"better", word_for(info.better)}};
  }
  std::vector<std::size_t> variant_of(comparison.runs.size());
  for (std::size_t v = 0; v < comparison.variants.size(); ++v) {
    const Variant& variant = comparison.variants[v];
    Json entry = {{"name", variant.name}, {"attention", variant.attention}, {"runs", variant.runs}};
    for (const std::size_t run : variant.runs) variant_of[run] = v;
    for (const MetricSummary& metric : variant.metrics)
      put(entry, metric.name,
          {{"mean", metric.mean},
           {"deviation", metric.deviation},
           {"count", metric.count},
           {"delta", delta(comparison, metric)},
           {"best", is_best(comparison, variant, metric.name)}});
    root["variants"].push_back(std::move(entry));
  }
  for (std::size_t i = 0; i < comparison.runs.size(); ++i) {
    const RunRecord& run = comparison.runs[i];
    Json entry = {{"directory", run.directory}, {"name", run.name},
                  {"attention", run.attention}, {"seed", run.seed},
                  {"variant", variant_of[i]},   {"environment", Json::object()}};
    for (const auto& [key, value] : run.environment) entry["environment"][key] = value;
    for (const NamedValue& metric : run.metrics) put(entry, metric.name, metric.value);
    entry["delta"] = Json::object();
    for (const NamedValue& metric : run.metrics)
      if (const double* first = find_value(comparison.runs[0].metrics, metric.name))
        put(entry["delta"], metric.name, metric.value - *first);
    root["runs"].push_back(std::move(entry));
  }
  for (const ConfigDifference& difference : comparison.differences)
    root["config_differences"].push_back({{"key", difference.key}, {"values", difference.values}});
  return root.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string comparison_csv(const Comparison& comparison) {
  std::string text = "metric,unit,better,variant,runs,mean,deviation,delta\r\n";
  for (const std::string& name : comparison.metrics) {
    const MetricInfo info = describe_metric(name);
    for (const Variant& variant : comparison.variants)
      if (const MetricSummary* metric = find_metric(variant, name))
        text += fmt::format("{},{},{},{},{},{},{},{}\r\n", quoted(name), quoted(info.unit),
                            word_for(info.better), quoted(variant.name), metric->count,
                            exact(metric->mean), exact(metric->deviation),
                            exact(delta(comparison, *metric)));
  }
  return text;
}

std::string comparison_markdown(const Comparison& comparison) {
  std::vector<std::string> header{""}, attentions{"attention"}, counts{"runs"};
  for (const Variant& variant : comparison.variants) {
    header.push_back(escaped(variant.name));
    attentions.push_back(escaped(variant.attention));
    counts.push_back(std::to_string(variant.runs.size()));
  }
  std::string text = row_of(header) + rule_of(header.size(), "---", "---:");
  text += row_of(attentions) + row_of(counts);
  for (const std::string& name : comparison.metrics) {
    const MetricInfo info = describe_metric(name);
    if (info.detail) continue;
    std::vector<std::string> row{
        escaped(info.unit.empty() ? info.label : info.label + ", " + info.unit)};
    for (const Variant& variant : comparison.variants)
      row.push_back(cell(comparison, variant, name, "**"));
    text += row_of(row);
  }
  if (comparison.differences.empty()) return text;
  header[0] = "config";
  text += "\n" + row_of(header) + rule_of(header.size(), "---", "---");
  for (const ConfigDifference& difference : comparison.differences) {
    std::vector<std::string> row{escaped(difference.key)};
    for (const std::string& value : difference.values) row.push_back(escaped(value));
    text += row_of(row);
  }
  return text;
}

}  // namespace quietformer
