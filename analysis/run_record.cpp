#include "analysis/run_record.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "analysis/history.h"
#include "analysis/run_metrics.h"
#include "core/check.h"
#include "core/config.h"
#include "core/file.h"
#include "core/log.h"

namespace quietformer {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kLogged[] = {"loss", "validation_loss", "grad_norm", "tokens_per_second"};
constexpr const char* kOverTime[] = {"kurtosis", "infinity_norm", "max_abs"};

// A value on one line, as YAML's flow style has it.
std::string inline_text(const ConfigValue& value) {
  std::string text;
  switch (value.kind) {
    case ConfigValue::Kind::null:
      return "null";
    case ConfigValue::Kind::scalar:
      return one_line(value.text, 200);
    case ConfigValue::Kind::list:
      for (const ConfigValue& item : value.items)
        text.append(text.empty() ? "" : ", ").append(inline_text(item));
      return one_line("[" + text + "]", 400);
    case ConfigValue::Kind::map:
      for (const auto& [key, item] : value.fields)
        text.append(text.empty() ? "" : ", ").append(key).append(": ").append(inline_text(item));
      return one_line("{" + text + "}", 400);
  }
  return text;
}

void flatten(const ConfigValue& value, const std::string& path,
             std::vector<std::pair<std::string, std::string>>& out) {
  if (value.kind != ConfigValue::Kind::map) {
    out.emplace_back(path, inline_text(value));
    return;
  }
  for (const auto& [key, item] : value.fields)
    flatten(item, path.empty() ? one_line(key, 100) : path + "." + one_line(key, 100), out);
}

std::string describe(const ConfigValue& value) {
  if (value.kind == ConfigValue::Kind::list) return "per head";
  if (value.kind == ConfigValue::Kind::map)
    return value.find("learned") != nullptr ? "learned" : "scheduled";
  return value.kind == ConfigValue::Kind::null ? "?" : one_line(value.text, 40);
}

// "dot softmax_n n=1, head gate"
std::string describe_attention(const ConfigValue& attention) {
  const auto part = [&](const char* key) -> std::string {
    const ConfigValue* value = attention.find(key);
    return value == nullptr ? "?" : describe(*value);
  };
  const std::string normalizer = part("normalizer"), gate = part("gate");
  std::string words = part("score") + " " + normalizer;
  if (normalizer == "softmax_n") words += " n=" + part("n");
  if (normalizer == "sigmoid") words += " bias=" + part("sigmoid_bias");
  if (normalizer == "clipped_softmax")
    words += fmt::format(" gamma={} zeta={}", part("gamma"), part("zeta"));
  return gate == "?" || gate == "none" ? words : fmt::format("{}, {} gate", words, gate);
}

void read_config(const std::string& path, RunRecord& run) {
  const ConfigValue root = parse_yaml(read_file(path, std::size_t{1} << 20), path);
  const ConfigValue *name = root.find("name"), *attention = root.find("attention");
  if (name == nullptr || attention == nullptr)
    throw InputError(path + ": expected the config of a run, with name and attention");
  run.name = describe(*name);
  run.attention = describe_attention(*attention);
  flatten(root, "", run.config);
  for (const auto& [key, value] : run.config)
    if (key == "train.seed") run.seed = value;
}

// Everything up to a line that is damaged, which is an InputError once the lines before it are in.
void read_log(const std::string& path, RunRecord& run) {
  const std::string text = read_file(path);
  for (const char* name : kLogged) run.log.push_back({name, {}, {}});
  std::size_t line_number = 0;
  std::int64_t last_step = -1;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const Json line = Json::parse(text.begin() + static_cast<std::ptrdiff_t>(begin),
                                  text.begin() + static_cast<std::ptrdiff_t>(end), nullptr, false);
    ++line_number;
    begin = end + 1;
    const auto fail = [&](const char* what) {
      throw InputError(fmt::format("{}:{}: {}; what follows is left out", path, line_number, what));
    };
    if (!line.is_object()) fail("not a JSON object (truncated?)");
    const auto step = line.find("step");
    if (step == line.end()) continue;  // an event
    if (!step->is_number_integer() || step->get<std::int64_t>() <= last_step)
      fail("expected steps that increase");
    last_step = step->get<std::int64_t>();
    for (Curve& curve : run.log) {
      const auto value = line.find(curve.name);
      if (value == line.end() || !value->is_number()) continue;
      curve.steps.push_back(last_step);
      curve.values.push_back(value->get<double>());
    }
  }
}

// The median: neither the first steps nor pauses for evaluation weigh in.
std::optional<double> median_speed(const RunRecord& run) {
  for (const Curve& curve : run.log) {
    if (curve.name != "tokens_per_second" || curve.values.empty()) continue;
    std::vector<double> speeds = curve.values;
    std::sort(speeds.begin(), speeds.end());
    return (speeds[speeds.size() / 2] + speeds[(speeds.size() - 1) / 2]) / 2;
  }
  return std::nullopt;
}

void add_curve(const StatisticsHistory& history, const std::string& site, const char* quantity,
               RunRecord& run) {
  const std::vector<double> values =
      history.series(fmt::format("activations/{}/{}", site, quantity));
  if (values.size() != history.steps().size()) return;
  Curve curve{fmt::format("{}/{}", label_of(site), quantity), {}, {}};
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i])) continue;
    curve.steps.push_back(history.steps()[i]);
    curve.values.push_back(values[i]);
  }
  if (!curve.steps.empty()) run.statistics.push_back(std::move(curve));
}

// The largest over a family's sites at every step that all of them have.
void add_family_maxima(RunRecord& run) {
  std::vector<std::pair<std::string, std::vector<const Curve*>>> families;
  for (const Curve& curve : run.statistics) {
    const std::string family = family_of(curve.name);
    if (family == curve.name) continue;
    auto found = std::find_if(families.begin(), families.end(),
                              [&](const auto& f) { return f.first == family; });
    if (found == families.end()) found = families.insert(found, {family, {}});
    found->second.push_back(&curve);
  }
  std::vector<Curve> maxima;
  for (const auto& [family, members] : families) {
    std::map<std::int64_t, std::pair<double, std::size_t>> largest;
    for (const Curve* curve : members)
      for (std::size_t i = 0; i < curve->steps.size(); ++i) {
        auto& [value, count] = largest.try_emplace(curve->steps[i], -INFINITY, 0).first->second;
        value = std::max(value, curve->values[i]);
        ++count;
      }
    Curve curve{family, {}, {}};
    for (const auto& [step, entry] : largest) {
      if (entry.second != members.size()) continue;
      curve.steps.push_back(step);
      curve.values.push_back(entry.first);
    }
    if (!curve.steps.empty()) maxima.push_back(std::move(curve));
  }
  run.statistics.insert(run.statistics.end(), std::make_move_iterator(maxima.begin()),
                        std::make_move_iterator(maxima.end()));
}

void read_statistics(const std::string& path, RunRecord& run) {
  const StatisticsHistory history = StatisticsHistory::load(path);
  std::vector<std::string> sites;  // in order of appearance
  std::set<std::string> seen;
  const std::string group = "activations/";
  for (const std::string& name : history.paths()) {
    if (!name.starts_with(group)) continue;
    const std::string site = name.substr(group.size(), name.find('/', group.size()) - group.size());
    if (seen.insert(site).second) sites.push_back(site);
  }
  for (const std::string& site : sites) {
    for (const char* quantity : kOverTime) add_curve(history, site, quantity, run);
    // Sink mass and the like are one mean.
    if (history.series(group + site + "/kurtosis").empty()) add_curve(history, site, "mean", run);
  }
  add_family_maxima(run);
}

bool keeps_statistics(const RunRecord& run) {
  return std::any_of(run.config.begin(), run.config.end(), [](const auto& item) {
    return item.first == "analysis.every" && item.second != "0";
  });
}

// Speed and quantisation go behind the losses.
void insert_metrics(RunRecord& run) {
  std::vector<NamedValue> metrics;
  if (const auto speed = median_speed(run)) metrics.push_back({"tokens_per_second", *speed});
  for (const QuantizedScheme& scheme : run.schemes) {
    metrics.push_back({fmt::format("quantized/{}/loss_gap", scheme.name),
                       *scheme.quantized_loss - *scheme.float_loss});
    if (scheme.bits_per_byte_gap)
      metrics.push_back(
          {fmt::format("quantized/{}/bits_per_byte_gap", scheme.name), *scheme.bits_per_byte_gap});
  }
  const auto place = std::find_if(run.metrics.begin(), run.metrics.end(), [](const NamedValue& m) {
    return !m.name.starts_with("loss/") && !m.name.starts_with("bits_per_byte/");
  });
  run.metrics.insert(place, metrics.begin(), metrics.end());
}

RunRecord read_run(const std::string& directory) {
  namespace fs = std::filesystem;
  RunRecord run;
  run.directory = directory;
  read_results(directory + "/results.json", run);
  read_config(directory + "/config.yaml", run);
  const auto attempt = [&](const char* file, const auto& read) {
    try {
      read(directory + "/" + file, run);
    } catch (const InputError& error) {
      log_warning(error.what());
    }
  };
  attempt("log.jsonl", read_log);
  if (keeps_statistics(run) || fs::exists(directory + "/stats.h5"))
    attempt("stats.h5", read_statistics);
  if (fs::exists(directory + "/quantized.json")) attempt("quantized.json", read_quantized);
  insert_metrics(run);
  return run;
}

}  // namespace

std::vector<RunRecord> read_run_records(std::span<const std::string> directories) {
  std::vector<RunRecord> runs;
  std::set<std::filesystem::path> seen;
  for (const std::string& directory : directories) {
    std::error_code ignored;
    const auto place = std::filesystem::weakly_canonical(directory, ignored);
    try {
      if (!ignored && !seen.insert(place / "").second)
        throw InputError(one_line(directory) + ": given twice");
      runs.push_back(read_run(directory));
    } catch (const InputError& error) {
      log_warning(fmt::format("{} (left out)", error.what()));
    }
  }
  if (runs.empty()) throw InputError("no finished run to compare");
  return runs;
}

}  // namespace quietformer
