#include "train/quantization_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "analysis/table.h"

namespace quietformer {
namespace {

using OrderedJson = nlohmann::ordered_json;

std::string_view name_of(RangeMethod range) {
  switch (range) {
    case RangeMethod::percentile:
      return "percentile";
    case RangeMethod::mse:
      return "mse";
    case RangeMethod::minmax:
      break;
  }
  return "minmax";
}

OrderedJson scheme_json(const QuantizationReport& report, const SchemeResult& result) {
  const QuantizationOptions& options = *report.options;
  const double before = report.result->float_loss, after = result.loss;
  const auto gap = [](double from, double to) {
    return OrderedJson{{"float", from}, {"quantized", to}, {"gap", to - from}};
  };
  OrderedJson json;
  json["scheme"] = result.scheme.name;
  json["weights"] = {{"bits", result.scheme.weight_bits},
                     {"per", options.weight_scales == WeightScales::channel ? "channel" : "tensor"},
                     {"range", options.weight_range == WeightRange::mse ? "mse" : "minmax"}};
  OrderedJson& activations = json["activations"];
  activations = {{"bits", result.scheme.activation_bits}, {"range", name_of(options.range)}};
  if (options.range == RangeMethod::minmax) activations["momentum"] = options.momentum;
  if (options.range == RangeMethod::percentile) activations["percentile"] = options.percentile;
  json["loss"] = gap(before, after);
  if (report.text->bits_per_byte(0))
    json["bits_per_byte"] =
        gap(*report.text->bits_per_byte(before), *report.text->bits_per_byte(after));
  if (options.leave_one_out)
    json["leave_one_out"] = {{"tokens", report.result->site_tokens}, {"gap", result.part_gap}};
  json["sites"] = OrderedJson::array();
  for (const QuantizedSite& site : result.sites) {
    OrderedJson entry{
        {"name", site.name}, {"low", site.low}, {"high", site.high}, {"mse", site.mse}};
    if (options.leave_one_out) {
      entry["gap_without"] = site.gap_without;
      entry["contribution"] = site.contribution;
    }
    json["sites"].push_back(std::move(entry));
  }
  return json;
}

std::string bits_text(int bits, std::string_view how) {
  return bits >= kFloatBits ? "float" : fmt::format("{} bits, {}", bits, how);
}

std::string signed_number(double value) {
  return std::isfinite(value) ? fmt::format("{:+.6f}", value) : "-";
}

std::string sites_table(const SchemeResult& result, bool left_out, std::size_t most) {
  Table table;
  std::vector<std::string> header{result.scheme.name + " site", "low", "high", "mse"};
  if (left_out) header.insert(header.end(), {"contribution", "gap without"});
  table.add(header);
  for (std::size_t i = 0; i < std::min(most, result.sites.size()); ++i) {
    const QuantizedSite& site = result.sites[i];
    std::vector<std::string> row{site.name, short_number(site.low), short_number(site.high),
                                 short_number(site.mse)};
    if (left_out) {
      row.push_back(signed_number(site.contribution));
      row.push_back(signed_number(site.gap_without));
    }
    table.add(row);
  }
  std::string text = "\n" + table.text();
  if (result.sites.size() > most)
    text += fmt::format("and {} more (--json, --out)\n", result.sites.size() - most);
  return text;
}

}  // namespace

std::string quantization_json(const QuantizationReport& report) {
  const QuantizationResult& result = *report.result;
  OrderedJson json{{"checkpoint", report.checkpoint},
                   {"step", report.step},
                   {"device", report.device},
                   {"data", report.text->path},
                   {"split", report.text->split},
                   {"tokens", result.tokens},
                   {"calibration",
                    {{"data", report.calibration_path},
                     {"split", report.calibration_split},
                     {"batches", result.calibration_batches},
                     {"tokens", result.calibration_tokens}}},
                   {"schemes", OrderedJson::array()}};
  for (const SchemeResult& scheme : result.schemes)
    json["schemes"].push_back(scheme_json(report, scheme));
  return json.dump();
}

std::string quantization_table(const QuantizationReport& report, std::size_t most) {
  const QuantizationResult& result = *report.result;
  const QuantizationOptions& options = *report.options;
  std::string text = fmt::format(
      "{} on {}\nevaluated on {} ({}, {} tokens), calibrated on {} ({}, {} tokens)\n\n",
      report.checkpoint, report.device, report.text->path, report.text->split, result.tokens,
      report.calibration_path, report.calibration_split, result.calibration_tokens);
  Table table;
  const bool bytes = report.text->bits_per_byte(0).has_value();
  std::vector<std::string> header{"scheme",     "weights",   "activations",
                                  "float loss", "quantised", "gap, nats"};
  if (bytes) header.insert(header.end(), {"bits per byte", "quantised", "gap"});
  table.add(header);
  for (const SchemeResult& scheme : result.schemes) {
    std::vector<std::string> row{
        scheme.scheme.name,
        bits_text(scheme.scheme.weight_bits,
                  options.weight_scales == WeightScales::channel ? "per channel" : "per tensor"),
        bits_text(scheme.scheme.activation_bits, name_of(options.range)),
        fmt::format("{:.6f}", result.float_loss),
        fmt::format("{:.6f}", scheme.loss),
        signed_number(scheme.loss - result.float_loss)};
    if (bytes) {
      const double before = *report.text->bits_per_byte(result.float_loss);
      const double after = *report.text->bits_per_byte(scheme.loss);
      row.insert(row.end(), {fmt::format("{:.6f}", before), fmt::format("{:.6f}", after),
                             signed_number(after - before)});
    }
    table.add(row);
  }
  text += table.text();
  for (const SchemeResult& scheme : result.schemes)
    if (!scheme.sites.empty()) text += sites_table(scheme, options.leave_one_out, most);
  if (options.leave_one_out)
    text += fmt::format(
        "\ncontribution: the gap over {} tokens less the gap with this site left in float\n",
        result.site_tokens);
  return text;
}

}  // namespace quietformer
