#include "analysis/results.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

#include "analysis/quantities.h"
#include "analysis/table.h"
#include "core/file.h"
#include "core/log.h"

namespace quietformer {
namespace {

using Json = nlohmann::ordered_json;

// Builds the objects and keeps count of what JSON cannot say.
class Builder {
 public:
  Json number(double value, const std::string& key) {
    if (std::isfinite(value)) return value;
    if (nulls_++ == 0) first_ = key;
    return nullptr;
  }

  template <class Statistics>
  Json object(const Statistics& statistics, const std::string& key) {
    Json object = Json::object();
    visit_quantities(statistics, [&](const Quantity& quantity, std::span<const double> values) {
      const std::string path = fmt::format("{}.{}", key, quantity.name);
      // Both halves of "pooled/kurtosis" without its slash.
      const std::size_t slash = quantity.name.find('/');
      Json& place = slash == std::string_view::npos
                        ? object[std::string(quantity.name)]
                        : object[std::string(quantity.name.substr(0, slash))]
                                [std::string(quantity.name.substr(slash + 1))];
      switch (quantity.kind) {
        case Quantity::Kind::real:
          place = number(values[0], path);
          break;
        case Quantity::Kind::count:
          if (!std::isnan(values[0])) place = static_cast<std::int64_t>(values[0]);
          break;
        case Quantity::Kind::by_head:
          place = numbers(values, path);
          break;
      }
    });
    return object;
  }

  Json weights(std::span<const WeightStatistics> weights) {
    Json all = Json::object();
    for (const WeightStatistics& w : weights) all[w.name] = object(w, "weights." + w.name);
    return all;
  }

  Json numbers(std::span<const double> values, const std::string& key) {
    Json list = Json::array();
    for (double value : values) list.push_back(number(value, key));
    return list;
  }

  Json attention(std::span<const AttentionProfile> profiles) {
    Json all = Json::object();
    for (const AttentionProfile& profile : profiles) {
      Json& layer = all[profile.layer] = Json::object();
      const auto add = [&](const char* name, std::span<const double> heads) {
        if (!heads.empty())
          layer[name] = numbers(heads, fmt::format("attention.{}.{}", profile.layer, name));
      };
      add("first_token_mass", profile.first_token_mass);
      add("row_sum", profile.row_sum);
      add("sink_mass", profile.sink_mass);
      add("entropy", profile.entropy);
    }
    return all;
  }

  std::string text(const Json& root, const std::string& name) const {
    if (nulls_ > 0)
      log_warning(fmt::format("{}: {} {} not finite and written as null (first: {})", name, nulls_,
                              nulls_ == 1 ? "value is" : "values are", first_));
    return root.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
  }

 private:
  int nulls_ = 0;
  std::string first_;
};

Json histogram_json(const MagnitudeHistogram& histogram) {
  return {{"bins_per_octave", MagnitudeHistogram::kBinsPerOctave},
          {"lowest_exponent", MagnitudeHistogram::kLowestExponent},
          {"below", histogram.below},
          {"counts", histogram.counts},
          {"above", histogram.above}};
}

Json outliers_json(const OutlierDimensions& outliers) {
  Json layers = Json::array(), positions = Json::array();
  for (const std::int64_t channel : outliers.channels) {
    layers.push_back(outliers.channel_layers[static_cast<std::size_t>(channel)]);
    positions.push_back(outliers.channel_positions[static_cast<std::size_t>(channel)]);
  }
  return {{"count", outliers.channels.size()},
          {"channels", outliers.channels},
          {"layers", layers},
          {"positions", positions}};
}

}  // namespace

std::string results_json(const RunResults& results, const std::string& name) {
  Builder builder;
  Json root = Json::object();
  root["loss"] = Json::object();
  for (const SplitLoss& s : results.losses) {
    root["loss"][s.split] = builder.number(s.loss, "loss." + s.split);
    if (results.bytes)
      root["bits_per_byte"][s.split] =
          builder.number(s.loss / std::numbers::ln2, "bits_per_byte." + s.split);
  }
  for (const char* mass : {"sink_mass", "row_sum"}) {
    const double mean = mean_mass(results.activations, mass);
    if (std::isfinite(mean)) root[mass] = mean;
  }
  root["activations"] = Json::object();
  for (const SiteStatistics& site : results.activations)
    if (site.all.samples > 0)
      root["activations"][site.site] = builder.object(site, "activations." + site.site);
  if (results.final != nullptr) {
    for (const FinalSite& site : results.final->sites)
      root["activations"][site.site]["histogram"] = histogram_json(site.histogram);
    if (results.final->outliers.layers > 0)
      root["outlier_dimensions"] = outliers_json(results.final->outliers);
    root["attention"] = builder.attention(results.final->attention);
  }
  root["weights"] = builder.weights(results.weights);
  for (const auto& [key, value] : results.environment) root["environment"][key] = value;
  return builder.text(root, name);
}

void write_results(const std::string& path, const RunResults& results) {
  write_file_atomically(path, results_json(results, path));
}

std::string weights_json(std::span<const WeightStatistics> weights, const std::string& name) {
  Builder builder;
  Json root = Json::object();
  root["weights"] = builder.weights(weights);
  return builder.text(root, name);
}

std::string weights_table(std::span<const WeightStatistics> weights) {
  Table table;
  for (const WeightStatistics& w : weights) {
    std::vector<std::string> header{"parameter"}, row{w.name};
    visit_quantities(w, [&](const Quantity& quantity, std::span<const double> values) {
      header.emplace_back(quantity.name);
      row.push_back(short_number(values[0]));
    });
    if (&w == weights.data()) table.add(std::move(header));
    table.add(std::move(row));
  }
  return table.text();
}

}  // namespace quietformer
