#include "train/surgery.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "core/check.h"
#include "core/config.h"
#include "layers/layer_ranges.h"
#include "train/run_config.h"

namespace quietformer {
namespace {

constexpr std::string_view kSinkLogit = "sink_logit";

// The keys that a request names, as a tree.
ConfigValue tree_of(const std::vector<std::string>& changes) {
  ConfigValue tree;
  tree.kind = ConfigValue::Kind::map;
  tree.where = "--attention";
  for (const std::string& change : changes) {
    const std::size_t equals = change.find('=');
    if (equals == std::string::npos || change.find('.') < equals)
      throw InputError(fmt::format(
          "--attention: found '{}', expected KEY=VALUE of the section attention", change));
    apply_override(tree, change, kHeadParameterKeys);
  }
  const auto found = std::find_if(tree.fields.begin(), tree.fields.end(),
                                  [](const auto& field) { return field.first == kSinkLogit; });
  if (found == tree.fields.end()) return tree;
  double logit = 0;
  read_value(found->second, "attention.sink_logit", logit);
  found->first = "n";
  found->second = write_value(HeadParameterConfig::learned(std::exp(logit)));
  found->second.where = tree.where;
  return tree;
}

std::vector<AttentionSettings> settings_of(const ModelConfig& model,
                                           const AttentionConfig& attention) {
  std::vector<AttentionSettings> settings;
  for (std::int64_t layer = 0; layer < model.layers; ++layer)
    settings.push_back(attention.of_layer(layer));
  return settings;
}

// The section with as few overrides as say the same: the settings that most layers have become the
// section's own, of several the first.
AttentionConfig section_of(const std::vector<AttentionSettings>& settings) {
  std::vector<std::pair<AttentionSettings, std::vector<std::int64_t>>> groups;
  for (std::size_t layer = 0; layer < settings.size(); ++layer) {
    auto group = std::find_if(groups.begin(), groups.end(),
                              [&](const auto& g) { return g.first == settings[layer]; });
    if (group == groups.end()) group = groups.insert(groups.end(), {settings[layer], {}});
    group->second.push_back(static_cast<std::int64_t>(layer));
  }
  const auto base = std::max_element(
      groups.begin(), groups.end(),
      [](const auto& a, const auto& b) { return a.second.size() < b.second.size(); });
  AttentionConfig attention;
  static_cast<AttentionSettings&>(attention) = base->first;
  for (auto group = groups.begin(); group != groups.end(); ++group) {
    if (group == base) continue;
    AttentionOverride entry;
    static_cast<AttentionSettings&>(entry) = group->first;
    entry.layers = format_layers(group->second);
    attention.overrides.push_back(std::move(entry));
  }
  return attention;
}

void settle(HeadParameterConfig& config, std::int64_t steps) {
  if (config.kind != HeadParameterConfig::Kind::scheduled || steps <= 0) return;
  if (steps >= config.steps) {
    config = HeadParameterConfig::fixed(config.to);
    return;
  }
  config.from += (config.to - config.from) * (double(steps) / double(config.steps));
  config.steps -= steps;
}

void change(AttentionSettings& settings, const ConfigValue& tree) {
  ConfigReader reader(tree, "attention");
  settings.visit(reader);
  reader.finish();
}

// What surgery adds is the same for every token at first: a gate's weight starts at zero, so that
// attention.gate_bias alone says how far the gate is open.
SourceParameter constant_parameter(const Parameter& parameter) {
  const auto value =
      static_cast<float>(parameter.init.kind == Init::Kind::constant ? parameter.init.value : 0.0);
  return {parameter.name, DType::f32, parameter.shape,
          [value, count = parameter.shape.count()](const Context&, void* out) {
            for (std::int64_t i = 0; i < count; ++i)
              std::memcpy(static_cast<char*>(out) + i * std::int64_t{sizeof(value)}, &value,
                          sizeof(value));
          }};
}

}  // namespace

SurgeryReport apply_surgery(const ModelConfig& model, AttentionConfig& attention,
                            const SurgeryRequest& request) {
  const ConfigValue tree = tree_of(request.changes);
  std::vector<AttentionSettings> settings = settings_of(model, attention);
  const std::vector<std::int64_t> selected =
      select_layers(request.layers, model.layers, "--layers");
  AttentionSettings any;
  change(any, tree);  // says what is wrong with a request that selects nothing, too
  SurgeryReport report;
  for (std::int64_t layer = 0; layer < model.layers; ++layer) {
    if (!std::binary_search(selected.begin(), selected.end(), layer)) {
      report.skipped.push_back(layer);
      continue;
    }
    AttentionSettings& here = settings[static_cast<std::size_t>(layer)];
    const AttentionSettings before = here;
    change(here, tree);
    (here == before ? report.same : report.changed).push_back(layer);
  }
  if (report.changed.empty()) return report;
  AttentionConfig after = section_of(settings);
  validate(model, after);
  attention = std::move(after);
  return report;
}

SurgeryReport apply_surgery(ModelSource& model, const SurgeryRequest& request) {
  AttentionConfig attention = model.config.attention;
  SurgeryReport report = apply_surgery(model.config.model, attention, request);
  std::vector<SourceParameter> parameters;
  for (const Parameter& parameter : parameters_of(model.config.model, attention)) {
    if (const SourceParameter* from = model.find(parameter.name)) {
      parameters.push_back(*from);
      continue;
    }
    QF_EXPECTS(is_head_parameter(parameter.name));
    parameters.push_back(constant_parameter(parameter));
    report.started.push_back(parameter.name);
  }
  for (const SourceParameter& old : model.parameters)
    if (std::none_of(parameters.begin(), parameters.end(),
                     [&](const SourceParameter& now) { return now.name == old.name; }))
      report.dropped.push_back(old.name);
  model.config.attention = std::move(attention);
  model.parameters = std::move(parameters);
  return report;
}

void settle_schedules(AttentionConfig& attention, std::int64_t steps) {
  const auto settle_all = [&](AttentionSettings& settings) {
    for (HeadParameterConfig* const config :
         {&settings.n, &settings.sigmoid_bias, &settings.gamma, &settings.zeta})
      settle(*config, steps);
  };
  settle_all(attention);
  for (AttentionOverride& entry : attention.overrides) settle_all(entry);
}

}  // namespace quietformer
