#include "train/hf/architecture.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <vector>

#include "core/check.h"
#include "train/run_config.h"

namespace quietformer {
namespace {

constexpr std::array<const HfArchitecture*, 4> kArchitectures{&kHfBert, &kHfGpt2, &kHfLlama,
                                                              &kHfRoberta};

std::string known_names() {
  std::vector<std::string_view> names;
  for (const HfArchitecture* architecture : kArchitectures) names.push_back(architecture->name);
  return fmt::format("{}", fmt::join(names, ", "));
}

}  // namespace

std::span<const HfArchitecture* const> hf_architectures() {
  return kArchitectures;
}

const HfArchitecture* find_hf_architecture(std::string_view name) {
  for (const HfArchitecture* architecture : kArchitectures)
    if (architecture->name == name) return architecture;
  return nullptr;
}

const HfArchitecture& hf_architecture_of(const HfConfig& config) {
  const HfArchitecture* found = find_hf_architecture(config.text("model_type", ""));
  if (found == nullptr) config.refuse("model_type", "one of " + known_names());
  return *found;
}

const HfArchitecture& hf_architecture_like(const ModelConfig& model) {
  for (const HfArchitecture* architecture : kArchitectures)
    if (architecture->resembles(model)) return *architecture;
  throw InputError(fmt::format(
      "model.type {}, model.position {}: no architecture of Hugging Face is like it; known are {}",
      model.type, model.position, known_names()));
}

void read_hf_config(const HfArchitecture& architecture, const HfConfig& config, ModelConfig& model,
                    AttentionConfig& attention) {
  if (!config.is_null("quantization_config"))
    config.refuse("quantization_config", "none: not supported");
  attention = AttentionConfig();
  attention.n = HeadParameterConfig::fixed(0);
  architecture.read_config(config, model, attention);
  try {
    if (const ConfigValue ours = config.object("quietformer").tree("attention");
        ours.kind != ConfigValue::Kind::null) {
      ConfigReader reader(ours, "attention");
      attention.visit(reader);
      reader.finish();
    }
    validate(model, attention);
  } catch (const InputError& error) {
    const std::string message = error.what();
    if (message.starts_with(config.path())) throw;
    throw InputError(fmt::format("{}: {}", config.path(), message));
  }
}

void expect_value(const HfArchitecture& architecture, std::string_view key, std::string_view found,
                  std::string_view expected) {
  if (found != expected)
    throw InputError(fmt::format("{}: found {}, expected {}: {} has nothing else", key, found,
                                 expected, architecture.name));
}

}  // namespace quietformer
