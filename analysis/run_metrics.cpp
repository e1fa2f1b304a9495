#include "analysis/run_metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/log.h"

namespace quietformer {
namespace {

// Statistics of several sites or parameters in a few numbers.
struct Family {
  std::string name = {};
  double kurtosis_sum = 0, kurtosis_max = -INFINITY, max_abs = -INFINITY, infinity_norm = -INFINITY;
  std::optional<double> outliers = {}, sigma_outliers = {};
  int kurtosis_count = 0;

  void add(const SiteRecord& site) {
    const auto raise = [&](double& into, const char* key) {
      if (const double* value = find_value(site.values, key)) into = std::max(into, *value);
    };
    const auto sum = [&](std::optional<double>& into, const char* key) {
      if (const double* value = find_value(site.values, key)) into = into.value_or(0) + *value;
    };
    if (const double* kurtosis = find_value(site.values, "kurtosis")) {
      kurtosis_sum += *kurtosis;
      ++kurtosis_count;
    }
    raise(kurtosis_max, "kurtosis");
    raise(max_abs, "max_abs");
    raise(infinity_norm, "infinity_norm");
    sum(outliers, "outliers_6");
    sum(sigma_outliers, "outliers_6_sigma");
  }
  void publish(const std::string& path, std::vector<NamedValue>& metrics) const {
    if (kurtosis_count > 0) {
      metrics.push_back({path + "/max_kurtosis", kurtosis_max});
      metrics.push_back({path + "/mean_kurtosis", kurtosis_sum / kurtosis_count});
    }
    if (std::isfinite(infinity_norm)) metrics.push_back({path + "/infinity_norm", infinity_norm});
    if (std::isfinite(max_abs)) metrics.push_back({path + "/max_abs", max_abs});
    if (outliers) metrics.push_back({path + "/outliers_6", *outliers});
    if (sigma_outliers) metrics.push_back({path + "/outliers_6_sigma", *sigma_outliers});
  }
};

struct Words {
  std::string_view key, label, unit;
};
constexpr Words kWords[] = {
    {"max_kurtosis", "Kurtosis, largest site", ""},
    {"mean_kurtosis", "Kurtosis, mean of sites", ""},
    {"infinity_norm", "Infinity norm, largest site", ""},
    {"max_abs", "Largest |x|", ""},
    {"outliers_6", "Values with |x| > 6", "count"},
    {"outliers_6_sigma", "Values beyond 6 sigma", "count"},
    {"dimensions", "Outlier dimensions", "count"},
    {"tokens_per_second", "Training speed", "tokens/s"},
    {"loss_gap", "loss gap", "nats/token"},
    {"bits_per_byte_gap", "gap", "bits/byte"},
    {"sink_mass", "Sink mass", ""},
    {"row_sum", "Row sum", ""},
    {"first_token_mass", "First-token mass", ""},
    {"attention_entropy", "Attention entropy", "nats"},
};

}  // namespace

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

std::string label_of(std::string_view text) {
  std::string name = one_line(text, 100);
  std::replace(name.begin(), name.end(), '/', '_');
  return name;
}

std::vector<NamedValue> outlier_metrics(const RunRecord& run) {
  Family all;
  for (const SiteRecord& site : run.sites) all.add(site);
  std::vector<NamedValue> metrics;
  all.publish("outliers", metrics);
  if (run.outlier_dimensions) metrics.push_back({"outliers/dimensions", *run.outlier_dimensions});
  return metrics;
}

std::vector<NamedValue> family_metrics(const RunRecord& run) {
  std::vector<Family> families;
  for (const SiteRecord& site : run.sites) {
    const std::string name = label_of(family_of(site.name));
    auto family = std::find_if(families.begin(), families.end(),
                               [&](const Family& f) { return f.name == name; });
    if (family == families.end()) family = families.insert(family, Family{.name = name});
    family->add(site);
  }
  std::vector<NamedValue> metrics;
  for (const Family& family : families) family.publish("activations/" + family.name, metrics);
  return metrics;
}

std::vector<NamedValue> weight_metrics(const std::vector<SiteRecord>& weights) {
  Family all;
  for (const SiteRecord& parameter : weights) all.add(parameter);
  std::vector<NamedValue> metrics;
  all.publish("weights", metrics);
  return metrics;
}

MetricInfo describe_metric(const std::string& path) {
  const std::size_t slash = path.find('/'), last = path.rfind('/');
  const std::string head = path.substr(0, slash);
  const std::string tail = last == path.npos ? path : path.substr(last + 1);
  if (head == "loss") return {"Quality", "Loss, " + tail, "nats/token"};
  if (head == "bits_per_byte") return {"Quality", "Bits per byte, " + tail, "bits/byte"};
  MetricInfo info{"Outliers", tail, ""};
  for (const Words& words : kWords)
    if (tail == words.key) info.label = words.label, info.unit = words.unit;
  if (path == "tokens_per_second") {
    info.group = "Speed";
    info.better = Better::higher;
  } else if (head == "quantized") {
    info.group = "Quantisation";
    info.label = path.substr(slash + 1, last - slash - 1) + " " + info.label;
  } else if (slash == path.npos) {
    info.group = "Attention";
    info.better = Better::neither;
  } else if (head == "activations") {
    info.group = path.substr(slash + 1, last - slash - 1);
    info.detail = true;
  } else if (head == "weights") {
    info.group = "weights";
    info.detail = true;
    if (tail == "max_kurtosis") info.label = "Kurtosis, largest tensor";
    if (tail == "mean_kurtosis") info.label = "Kurtosis, mean of tensors";
  }
  return info;
}

const double* find_value(const std::vector<NamedValue>& values, std::string_view name) {
  for (const NamedValue& v : values)
    if (v.name == name) return &v.value;
  return nullptr;
}

}  // namespace quietformer
