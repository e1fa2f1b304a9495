#include "analysis/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "analysis/run_metrics.h"
#include "core/check.h"

namespace quietformer {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kMostPoints = 400;            // of a curve: more than a chart has pixels for
constexpr std::size_t kLogPoints = 100'000;         // of all curves of logs: about 2 MB
constexpr std::size_t kStatisticsPoints = 150'000;  // of all curves of statistics: about 3 MB
constexpr std::array<std::string_view, 7> kMapped{
    "kurtosis", "infinity_norm", "max_abs", "outliers_6", "outliers_6_sigma", "variance", "mean"};

// Six digits are more than a chart shows, and make a short text.
double rounded(double value) {
  return std::isfinite(value) ? std::strtod(fmt::format("{:.6g}", value).c_str(), nullptr) : value;
}

Json rounded(const std::vector<double>& values) {
  Json list = Json::array();
  for (const double value : values) list.push_back(rounded(value));
  return list;
}

// How many points a curve may have.
struct Points {
  std::size_t log = 0, statistics = 0;
};

Points points_per_curve(const Comparison& comparison) {
  std::size_t logs = 1, statistics = 1;
  const auto count = [&](const auto& source) {
    logs += source.log.size();
    statistics += source.statistics.size();
  };
  for (const RunRecord& run : comparison.runs) count(run);
  for (const Variant& variant : comparison.variants) count(variant);
  const auto share = [](std::size_t all, std::size_t curves) {
    return std::clamp<std::size_t>(all / curves, 2, kMostPoints);
  };
  return {share(kLogPoints, logs), share(kStatisticsPoints, statistics)};
}

std::size_t longest(const Comparison& comparison, std::vector<Curve> RunRecord::*curves) {
  std::size_t most = 0;
  for (const RunRecord& run : comparison.runs)
    for (const Curve& curve : run.*curves) most = std::max(most, curve.steps.size());
  return most;
}

Json curves_json(const std::vector<Curve>& curves, std::size_t most) {
  Json object = Json::object();
  for (const Curve& curve : curves) {
    if (curve.steps.empty()) continue;
    Json steps = Json::array(), values = Json::array();
    for (const std::size_t i : thin(curve.steps, curve.values, most)) {
      steps.push_back(curve.steps[i]);
      values.push_back(rounded(curve.values[i]));
    }
    object[curve.name] = {{"steps", std::move(steps)}, {"values", std::move(values)}};
  }
  return object;
}

Json site_json(const SiteRecord& site) {
  Json entry = {{"name", site.name}, {"values", Json::object()}};
  for (const NamedValue& v : site.values)
    if (std::find(kMapped.begin(), kMapped.end(), v.name) != kMapped.end())
      entry["values"][v.name] = rounded(v.value);
  if (const auto& h = site.histogram)
    entry["histogram"] = {{"bins_per_octave", h->bins_per_octave},
                          {"lowest_exponent", h->lowest_exponent},
                          {"below", h->below},
                          {"above", h->above},
                          {"counts", h->counts}};
  return entry;
}

Json scheme_json(const QuantizedScheme& scheme) {
  Json entry = {{"name", scheme.name},
                {"weights", scheme.weights},
                {"activations", scheme.activations},
                {"sites", Json::array()}};
  for (const RecordedSite& site : scheme.sites)
    entry["sites"].push_back({site.name, rounded(site.contribution)});
  return entry;
}

Json run_json(const RunRecord& run, const Points& points) {
  Json entry = {{"name", run.name},
                {"directory", run.directory},
                {"seed", run.seed},
                {"environment", run.environment},
                {"log", curves_json(run.log, points.log)},
                {"statistics", curves_json(run.statistics, points.statistics)},
                {"sites", Json::array()},
                {"heads", Json::array()},
                {"schemes", Json::array()}};
  for (const SiteRecord& site : run.sites) entry["sites"].push_back(site_json(site));
  for (const HeadValues& heads : run.heads)
    entry["heads"].push_back({{"attention", heads.attention},
                              {"quantity", heads.quantity},
                              {"values", rounded(heads.values)}});
  for (const QuantizedScheme& scheme : run.schemes) entry["schemes"].push_back(scheme_json(scheme));
  return entry;
}

Json variant_json(const Comparison& comparison, const Variant& variant, const Points& points) {
  Json entry = {{"name", variant.name},
                {"attention", variant.attention},
                {"runs", variant.runs},
                {"metrics", Json::object()},
                {"log", curves_json(variant.log, points.log)},
                {"statistics", curves_json(variant.statistics, points.statistics)}};
  for (const MetricSummary& metric : variant.metrics) {
    const MetricSummary* first = find_metric(comparison.variants[0], metric.name);
    entry["metrics"][metric.name] = {{"mean", metric.mean},
                                     {"deviation", metric.deviation},
                                     {"count", metric.count},
                                     {"delta", first == nullptr ? NAN : metric.mean - first->mean},
                                     {"best", is_best(comparison, variant, metric.name)}};
  }
  return entry;
}

// Twice the area of the triangle of three points.
double triangle(double ax, double ay, double bx, double by, double cx, double cy) {
  return std::abs((bx - ax) * (cy - ay) - (cx - ax) * (by - ay));
}

}  // namespace

std::vector<std::size_t> thin(std::span<const std::int64_t> steps, std::span<const double> values,
                              std::size_t most) {
  QF_EXPECTS(steps.size() == values.size() && most >= 2);
  const std::size_t count = steps.size();
  std::vector<std::size_t> kept;
  if (count <= most) {
    for (std::size_t i = 0; i < count; ++i) kept.push_back(i);
    return kept;
  }
  const std::size_t stretches = most - 2;
  const auto border = [&](std::size_t stretch) {  // of the points between first and last
    return 1 + stretch * (count - 2) / std::max<std::size_t>(stretches, 1);
  };
  kept.push_back(0);
  for (std::size_t s = 0; s < stretches; ++s) {
    const std::size_t next = border(s + 1), end = s + 1 < stretches ? border(s + 2) : count;
    double mean_x = 0, mean_y = 0;
    for (std::size_t i = next; i < end; ++i) {
      mean_x += static_cast<double>(steps[i]) / static_cast<double>(end - next);
      mean_y += values[i] / static_cast<double>(end - next);
    }
    const std::size_t before = kept.back();
    std::size_t best = border(s);
    double largest = -1;
    for (std::size_t i = border(s); i < next; ++i) {
      const double area = triangle(static_cast<double>(steps[before]), values[before],
                                   static_cast<double>(steps[i]), values[i], mean_x, mean_y);
      if (area > largest) largest = area, best = i;
    }
    kept.push_back(best);
  }
  kept.push_back(count - 1);
  return kept;
}

std::string report_data(const Comparison& comparison) {
  const Points points = points_per_curve(comparison);
  Json root = {{"metrics", Json::array()},
               {"variants", Json::array()},
               {"runs", Json::array()},
               {"differences", Json::array()},
               {"points", {{"log", points.log}, {"statistics", points.statistics}}},
               {"thinned", longest(comparison, &RunRecord::log) > points.log ||
                               longest(comparison, &RunRecord::statistics) > points.statistics}};
  for (const RunRecord& run : comparison.runs) root["runs"].push_back(run_json(run, points));
  for (const std::string& name : comparison.metrics) {
    const MetricInfo info = describe_metric(name);
    root["metrics"].push_back({{"name", name},
                               {"group", info.group},
                               {"label", info.label},
                               {"unit", info.unit},
                               {"better", info.better == Better::lower    ? "lower"
                                          : info.better == Better::higher ? "higher"
                                                                          : "neither"},
                               {"detail", info.detail}});
  }
  for (const Variant& variant : comparison.variants)
    root["variants"].push_back(variant_json(comparison, variant, points));
  for (const ConfigDifference& difference : comparison.differences)
    root["differences"].push_back({{"key", difference.key}, {"values", difference.values}});
  const std::string text = root.dump(-1, ' ', false, Json::error_handler_t::replace);
  // '<' stands in strings alone; without it no text can end the script element or open a comment.
  std::string safe;
  safe.reserve(text.size());
  for (const char c : text) {
    if (c == '<') {
      safe += "\\u003c";
    } else {
      safe += c;
    }
  }
  return safe;
}

std::string why_no_report() {
  if (!report_template().before.empty()) return {};
  return "this build makes no HTML report: it was configured without Chart.js "
         "(apt-get install libjs-chart.js, then configure and build again)";
}

std::string report_page(const Comparison& comparison) {
  const ReportTemplate page = report_template();
  QF_EXPECTS(!page.before.empty());
  return std::string(page.before) + report_data(comparison) + std::string(page.after);
}

}  // namespace quietformer
