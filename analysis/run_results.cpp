// results.json and quantized.json of a run, as records: analysis/run_record.h.
#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "analysis/run_metrics.h"
#include "analysis/run_record.h"
#include "core/check.h"
#include "core/file.h"
#include "core/log.h"

namespace quietformer {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kMaxBytes = std::size_t{64} << 20;
constexpr std::size_t kMaxBins = 4096;  // of a histogram

Json parse_object(const std::string& path) {
  const Json root = Json::parse(read_file(path, kMaxBytes), nullptr, false);
  if (root.is_discarded()) throw InputError(path + ": not JSON (truncated?)");
  if (!root.is_object()) throw InputError(path + ": expected a JSON object");
  return root;
}

[[noreturn]] void fail(const std::string& path, std::string_view key, const char* expected) {
  throw InputError(fmt::format("{}: {}: expected {}", path, one_line(key, 100), expected));
}

// A member that must be an object; an absent one reads as empty.
const Json& section(const Json& root, const char* key, const std::string& path) {
  static const Json kEmpty = Json::object();
  const auto found = root.find(key);
  if (found == root.end()) return kEmpty;
  if (!found->is_object()) fail(path, key, "an object");
  return *found;
}

// A member that is a number or null; absent ones read as null.
std::optional<double> number(const Json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_number()) return std::nullopt;
  const double value = found->get<double>();
  return std::isfinite(value) ? std::optional(value) : std::nullopt;
}

std::vector<double> numbers(const Json& list, const std::string& path, std::string_view key) {
  if (!list.is_array()) fail(path, key, "a list of numbers");
  std::vector<double> values;
  for (const Json& value : list) {
    if (!value.is_number() && !value.is_null()) fail(path, key, "a list of numbers");
    values.push_back(value.is_null() ? NAN : value.get<double>());
  }
  return values;
}

std::string text(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() || !found->is_string()
             ? std::string()
             : one_line(found->get_ref<const std::string&>(), 100);
}

Histogram histogram(const Json& entry, const std::string& path, std::string_view site) {
  const std::string key = fmt::format("activations: {}: histogram", site);
  if (!entry.is_object()) fail(path, key, "an object");
  const auto bins = number(entry, "bins_per_octave"), lowest = number(entry, "lowest_exponent");
  if (!bins || *bins < 1 || *bins > 64 || !lowest || std::abs(*lowest) > 1100)
    fail(path, key, "bins_per_octave (1 to 64) and lowest_exponent");
  Histogram h;
  h.bins_per_octave = static_cast<int>(*bins);
  h.lowest_exponent = static_cast<int>(*lowest);
  h.below = number(entry, "below").value_or(0);
  h.above = number(entry, "above").value_or(0);
  if (const auto counts = entry.find("counts"); counts != entry.end())
    h.counts = numbers(*counts, path, key);
  if (h.counts.empty() || h.counts.size() > kMaxBins) fail(path, key, "counts, 1 to 4096 of them");
  return h;
}

SiteRecord site_record(const std::string& name, const Json& entry, const std::string& path) {
  SiteRecord site{one_line(name, 100), {}, {}};
  if (!entry.is_object()) return site;
  for (const auto& [key, value] : entry.items())
    if (const auto known = number(entry, key.c_str()))
      site.values.push_back({label_of(key), *known});
  if (const auto found = entry.find("histogram"); found != entry.end() && !found->is_null())
    site.histogram = histogram(*found, path, site.name);
  return site;
}

void read_heads(const Json& root, const std::string& path, RunRecord& run) {
  for (const auto& [attention, entry] : section(root, "attention", path).items()) {
    if (!entry.is_object()) fail(path, "attention: " + attention, "an object");
    for (const auto& [quantity, values] : entry.items())
      if (values.is_array())
        run.heads.push_back(
            {one_line(attention, 100), label_of(quantity),
             numbers(values, path, fmt::format("attention: {}: {}", attention, quantity))});
  }
}

std::optional<double> mean_over_heads(const RunRecord& run, const std::string& quantity) {
  double sum = 0;
  int count = 0;
  for (const HeadValues& heads : run.heads)
    for (const double value : heads.values)
      if (heads.quantity == quantity && std::isfinite(value)) sum += value, ++count;
  return count > 0 ? std::optional(sum / count) : std::nullopt;
}

RecordedSite quantized_site(const Json& entry, const std::string& path) {
  const auto contribution = entry.is_object() ? number(entry, "contribution") : std::nullopt;
  if (!contribution || text(entry, "name").empty())
    fail(path, "schemes: sites", "objects with name and contribution");
  return {text(entry, "name"), *contribution};
}

// "8 bits per tensor" of {"bits": 8, "per": "tensor"}; of activations the range instead.
std::string precision(const Json& scheme, const char* key, const char* detail, const char* join) {
  const auto found = scheme.find(key);
  if (found == scheme.end() || !found->is_object()) return {};
  const auto bits = number(*found, "bits");
  std::string words = bits ? fmt::format("{} bits", *bits) : std::string();
  if (const std::string how = text(*found, detail); !how.empty()) words += join + how;
  return words;
}

// "W8A8 channel percentile": one file may hold a scheme with several ranges.
std::string scheme_name(const Json& entry) {
  std::string name = text(entry, "scheme");
  for (const auto& [key, detail] : {std::pair("weights", "per"), std::pair("activations", "range")})
    if (const auto found = entry.find(key); found != entry.end() && found->is_object()) {
      const std::string word = text(*found, detail);
      if (!word.empty() && word != "tensor") name += " " + word;
    }
  return label_of(name);
}

}  // namespace

void read_results(const std::string& path, RunRecord& run) {
  const Json root = parse_object(path);
  if (!root.contains("loss") || !root.contains("activations"))
    throw InputError(path + ": expected the results of a run, with loss and activations");
  std::vector<NamedValue> losses;
  for (const char* key : {"loss", "bits_per_byte"})
    for (const auto& [split, value] : section(root, key, path).items())
      if (value.is_number())
        losses.push_back({fmt::format("{}/{}", key, label_of(split)), value.get<double>()});
  for (const auto& [name, entry] : section(root, "activations", path).items())
    run.sites.push_back(site_record(name, entry, path));
  run.outlier_dimensions = number(section(root, "outlier_dimensions", path), "count");
  read_heads(root, path, run);
  for (const auto& [key, value] : section(root, "environment", path).items())
    if (value.is_string())
      run.environment.emplace_back(label_of(key),
                                   one_line(value.get_ref<const std::string&>(), 200));
  std::vector<SiteRecord> weights;
  for (const auto& [name, entry] : section(root, "weights", path).items())
    weights.push_back(site_record(name, entry, path));

  const auto append = [&run](const std::vector<NamedValue>& metrics) {
    run.metrics.insert(run.metrics.end(), metrics.begin(), metrics.end());
  };
  append(losses);
  append(outlier_metrics(run));
  for (const char* key : {"sink_mass", "row_sum"})
    if (const auto value = number(root, key)) run.metrics.push_back({key, *value});
  if (const auto value = mean_over_heads(run, "first_token_mass"))
    run.metrics.push_back({"first_token_mass", *value});
  if (const auto value = mean_over_heads(run, "entropy"))
    run.metrics.push_back({"attention_entropy", *value});
  append(family_metrics(run));
  append(weight_metrics(weights));
}

void read_quantized(const std::string& path, RunRecord& run) {
  const Json root = parse_object(path);
  const auto schemes = root.find("schemes");
  if (schemes == root.end() || !schemes->is_array())
    throw InputError(path +
                     ": expected the output of quietformer quantize, with a list of schemes");
  std::vector<QuantizedScheme> found;
  for (const Json& entry : *schemes) {
    if (!entry.is_object() || text(entry, "scheme").empty())
      fail(path, "schemes", "objects with a scheme");
    QuantizedScheme scheme;
    scheme.name = scheme_name(entry);
    scheme.weights = precision(entry, "weights", "per", " per ");
    scheme.activations = precision(entry, "activations", "range", ", ");
    const Json& loss = section(entry, "loss", path);
    scheme.float_loss = number(loss, "float");
    scheme.quantized_loss = number(loss, "quantized");
    if (!scheme.float_loss || !scheme.quantized_loss)
      fail(path, "schemes: " + scheme.name + ": loss", "numbers float and quantized");
    scheme.bits_per_byte_gap = number(section(entry, "bits_per_byte", path), "gap");
    if (const auto sites = entry.find("sites"); sites != entry.end()) {
      if (!sites->is_array()) fail(path, "schemes: sites", "a list");
      for (const Json& site : *sites) scheme.sites.push_back(quantized_site(site, path));
    }
    found.push_back(std::move(scheme));
  }
  run.schemes = std::move(found);
}

}  // namespace quietformer
