#include "layers/model_config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>

#include "attention/attention.h"
#include "core/check.h"
#include "layers/layer_ranges.h"

namespace quietformer {
namespace {

constexpr std::int64_t kMaxDim = 1 << 20;

template <class Value>
struct Named {
  std::string_view name;
  Value value;
};

/// Looks a word up in a short table; the error lists the table.
template <class Value, std::size_t N>
Value find(std::string_view key, std::string_view word, const Named<Value> (&table)[N]) {
  std::vector<std::string_view> known;
  for (const Named<Value>& entry : table) {
    if (entry.name == word) return entry.value;
    known.push_back(entry.name);
  }
  throw InputError(
      fmt::format("{}: found '{}', expected one of {}", key, word, fmt::join(known, ", ")));
}

void check_range(std::string_view key, std::int64_t value, std::int64_t low, std::int64_t high) {
  if (value < low || value > high)
    throw InputError(fmt::format("{}: found {}, expected {} to {}", key, value, low, high));
}

void check_probability(std::string_view key, double value) {
  if (!(value >= 0 && value < 1))
    throw InputError(fmt::format("{}: found {}, expected at least 0 and below 1", key, value));
}

void check_positive(std::string_view key, double value) {
  if (!(value > 0 && std::isfinite(value)))
    throw InputError(fmt::format("{}: found {}, expected a positive number", key, value));
}

void check_not_negative(std::string_view key, double value) {
  if (!(value >= 0 && std::isfinite(value)))
    throw InputError(fmt::format("{}: found {}, expected zero or a positive number", key, value));
}

void check_gamma(std::string_view key, double value) {
  if (!(value <= 0 && std::isfinite(value)))
    throw InputError(fmt::format("{}: found {}, expected zero or a negative number", key, value));
}

void check_zeta(std::string_view key, double value) {
  if (!(value >= 1 && std::isfinite(value)))
    throw InputError(fmt::format("{}: found {}, expected 1 or more", key, value));
}

void check_finite(std::string_view key, double value) {
  if (!std::isfinite(value))
    throw InputError(fmt::format("{}: found {}, expected a finite number", key, value));
}

using ValueCheck = void (*)(std::string_view key, double value);

void check_head_parameter(const std::string& key, const HeadParameterConfig& config,
                          std::int64_t heads, ValueCheck check_value) {
  using Kind = HeadParameterConfig::Kind;
  const bool one = config.kind == Kind::fixed || config.kind == Kind::over_context;
  const std::size_t expected = one                             ? 1
                               : config.kind == Kind::per_head ? static_cast<std::size_t>(heads)
                                                               : 0;
  if (config.values.size() != expected)
    throw InputError(fmt::format("{}: found {} values, expected {} (model.heads {})", key,
                                 config.values.size(), expected, heads));
  for (const double value : config.values) check_value(key, value);
  if (config.kind == Kind::learned) check_value(key + ".init", config.init);
  if (config.kind == Kind::scheduled) {
    check_value(key + ".from", config.from);
    check_value(key + ".to", config.to);
    check_range(key + ".steps", config.steps, 1, std::int64_t{1} << 40);
  }
}

void check_model(const ModelConfig& model) {
  const ModelKind kind = find_model(model.type);
  // Upper ends are far above any use; they keep products of sizes inside 64 bits.
  check_range("model.layers", model.layers, 1, 100'000);
  check_range("model.heads", model.heads, 1, 1 << 20);
  check_range("model.dim", model.dim, 1, kMaxDim);
  check_range("model.context", model.context, 1, 1 << 30);
  check_range("model.vocab", model.vocab, 1, 1 << 30);
  check_range("model.mlp_dim", model.mlp_dim, 1, 1 << 24);
  check_range("model.kv_heads", model.kv_heads, 1, 1 << 20);
  if (model.dim % model.heads != 0)
    throw InputError(
        fmt::format("model.dim: {} is not divisible by model.heads {}", model.dim, model.heads));
  if (model.heads % model.kv_heads != 0)
    throw InputError(fmt::format("model.kv_heads: {} does not divide model.heads {}",
                                 model.kv_heads, model.heads));
  if (model.head_dim() > 256)
    throw InputError(fmt::format("model.heads: {} gives head dim {}, expected at most 256",
                                 model.heads, model.head_dim()));
  if (kind == ModelKind::gpt)
    check_range("model.token_types", model.token_types, 0, 0);
  else
    check_range("model.token_types", model.token_types, 0, 1 << 20);
  check_range("model.padding_token", model.padding_token, 0, model.vocab - 1);
  if (kind == ModelKind::roberta && find_position(model.position) != PositionKind::learned)
    throw InputError(fmt::format(
        "model.position: found '{}', expected learned for model.type roberta", model.position));
  find_mlp(model.mlp);
  find_norm(model.norm);
  find_norm_structure(model.norm_structure);
  find_qk_norm(model.qk_norm);
  if (find_position(model.position) == PositionKind::rotary && model.head_dim() % 2 != 0)
    throw InputError(
        fmt::format("model.position: rotary needs an even head dim, found {} "
                    "(model.dim {} / model.heads {})",
                    model.head_dim(), model.dim, model.heads));
  check_not_negative("model.layer_scale", model.layer_scale);
  check_probability("model.dropout", model.dropout);
  check_positive("model.norm_eps", model.norm_eps);
  check_positive("model.rotary_base", model.rotary_base);
  check_not_negative("model.init_std", model.init_std);
}

void check_score(const ModelConfig& model, const AttentionSettings& attention) {
  Score score;
  try {
    score = find_score(attention.score);
  } catch (const InputError& error) {
    throw InputError(fmt::format("attention.score: {}", error.what()));
  }
  if (attention.scale) check_positive("attention.scale", *attention.scale);
  check_range("attention.groups", attention.groups, 1, 1 << 20);
  if (score == Score::cosine && model.head_dim() % attention.groups != 0)
    throw InputError(fmt::format("attention.groups: {} does not divide the head dim {}",
                                 attention.groups, model.head_dim()));
  check_range("attention.threshold", attention.threshold, 0, std::int64_t{1} << 40);
  if (score != Score::piecewise) return;
  if (attention.threshold < 1)
    throw InputError(
        fmt::format("attention.threshold: found {}, expected at least 1 with attention.score "
                    "piecewise",
                    attention.threshold));
  // The far pair differs from the near one by its rotation alone.
  if (find_position(model.position) != PositionKind::rotary)
    throw InputError(
        fmt::format("model.position: found '{}', expected rotary with attention.score "
                    "piecewise",
                    model.position));
}

void check_implementation(std::string_view name) {
  if (name == "auto") return;
  std::vector<std::string_view> known{"auto"};
  for (const AttentionImplementation* implementation : implementations()) {
    if (implementation->name() == name) return;
    known.push_back(implementation->name());
  }
  throw InputError(fmt::format("attention.implementation: found '{}', expected one of {}", name,
                               fmt::join(known, ", ")));
}

void check_attention(const ModelConfig& model, const AttentionSettings& attention) {
  using Kind = HeadParameterConfig::Kind;
  check_score(model, attention);
  try {
    find_normalizer(attention.normalizer);
  } catch (const InputError& error) {
    throw InputError(fmt::format("attention.normalizer: {}", error.what()));
  }
  check_head_parameter("attention.n", attention.n, model.heads, check_not_negative);
  if (attention.n.kind == Kind::minus_log_context)
    throw InputError("attention.n: found -log_context, expected zero or a positive number");
  // What is learned is the sink logit ln n.
  if (attention.n.kind == Kind::learned) check_positive("attention.n.init", attention.n.init);
  check_head_parameter("attention.sigmoid_bias", attention.sigmoid_bias, model.heads, check_finite);
  check_head_parameter("attention.gamma", attention.gamma, model.heads, check_gamma);
  check_head_parameter("attention.zeta", attention.zeta, model.heads, check_zeta);
  for (const auto& [key, config] :
       {std::pair{"gamma", &attention.gamma}, {"zeta", &attention.zeta}})
    if (config->kind == Kind::learned)
      throw InputError(
          fmt::format("attention.{}: found learned, expected a number, a list or a schedule: "
                      "training would take it out of its range",
                      key));
  find_gate(attention.gate);
  check_finite("attention.gate_bias", attention.gate_bias);
  if (attention.causal == is_encoder(model))
    throw InputError(
        fmt::format("attention.causal: found {}, expected {}: model.type {} {}", attention.causal,
                    !attention.causal, model.type,
                    is_encoder(model) ? "looks both ways" : "predicts the next token"));
  for (const std::int64_t side : attention.window)
    check_range("attention.window", side, -1, std::int64_t{1} << 40);
  check_probability("attention.dropout", attention.dropout);
  check_implementation(attention.implementation);
}

// What is wrong with one entry, in the section's words and after the entry's name.
void check_override(const ModelConfig& model, const AttentionConfig& attention, std::size_t index) {
  const AttentionOverride& entry = attention.overrides[index];
  const std::string key = fmt::format("attention.overrides[{}]", index);
  check_range(key + ".layers", last_layer(entry.layers, key + ".layers"), -1, model.layers - 1);
  try {
    check_attention(model, entry);
  } catch (const InputError& error) {
    throw InputError(fmt::format("{}: {}", key, error.what()));
  }
}

// Far tokens stand at the threshold, in rotations that all layers share.
void check_thresholds(const AttentionConfig& attention) {
  std::optional<std::int64_t> threshold;
  const auto check = [&](const AttentionSettings& settings) {
    if (settings.score != "piecewise") return;
    if (threshold && *threshold != settings.threshold)
      throw InputError(
          fmt::format("attention.overrides: found threshold {}, expected {} as other "
                      "piecewise layers have",
                      settings.threshold, *threshold));
    threshold = settings.threshold;
  };
  check(attention);
  for (const AttentionOverride& entry : attention.overrides) check(entry);
}

}  // namespace

AttentionConfig AttentionConfig::of_layer(std::int64_t layer) const {
  AttentionConfig settings;
  static_cast<AttentionSettings&>(settings) = *this;
  for (const AttentionOverride& entry : overrides) {
    const auto selected = select_layers(entry.layers, layer + 1, "attention.overrides");
    if (!selected.empty() && selected.back() == layer)
      static_cast<AttentionSettings&>(settings) = entry;
  }
  return settings;
}

ModelKind find_model(std::string_view value) {
  static constexpr Named<ModelKind> kTable[] = {
      {"gpt", ModelKind::gpt}, {"bert", ModelKind::bert}, {"roberta", ModelKind::roberta}};
  return find("model.type", value, kTable);
}

MlpKind find_mlp(std::string_view value) {
  static constexpr Named<MlpKind> kTable[] = {
      {"gelu", MlpKind::gelu}, {"gelu_erf", MlpKind::gelu_erf}, {"swiglu", MlpKind::swiglu}};
  return find("model.mlp", value, kTable);
}

NormKind find_norm(std::string_view value) {
  static constexpr Named<NormKind> kTable[] = {{"layernorm", NormKind::layernorm},
                                               {"rmsnorm", NormKind::rmsnorm}};
  return find("model.norm", value, kTable);
}

NormStructure find_norm_structure(std::string_view value) {
  static constexpr Named<NormStructure> kTable[] = {{"pre", NormStructure::pre},
                                                    {"post", NormStructure::post},
                                                    {"hybrid", NormStructure::hybrid}};
  return find("model.norm_structure", value, kTable);
}

PositionKind find_position(std::string_view value) {
  static constexpr Named<PositionKind> kTable[] = {{"learned", PositionKind::learned},
                                                   {"sinusoidal", PositionKind::sinusoidal},
                                                   {"rotary", PositionKind::rotary},
                                                   {"none", PositionKind::none}};
  return find("model.position", value, kTable);
}

GateKind find_gate(std::string_view value) {
  static constexpr Named<GateKind> kTable[] = {{"none", GateKind::none}, {"head", GateKind::head}};
  return find("attention.gate", value, kTable);
}

std::optional<NormKind> find_qk_norm(std::string_view value) {
  static constexpr Named<std::optional<NormKind>> kTable[] = {{"none", std::nullopt},
                                                              {"layernorm", NormKind::layernorm},
                                                              {"rmsnorm", NormKind::rmsnorm},
                                                              {"l2", NormKind::l2}};
  return find("model.qk_norm", value, kTable);
}

bool is_encoder(const ModelConfig& model) {
  return find_model(model.type) != ModelKind::gpt;
}

bool uses_deepnet(const ModelConfig& model) {
  return model.deepnet && find_norm_structure(model.norm_structure) == NormStructure::post;
}

void resolve(ModelConfig& model) {
  check_range("model.dim", model.dim, 1, kMaxDim);  // before it is multiplied
  if (model.kv_heads == 0) model.kv_heads = model.heads;
  if (model.mlp_dim == 0) model.mlp_dim = 4 * model.dim;
}

void validate(const ModelConfig& model, const AttentionConfig& attention) {
  ModelConfig resolved = model;
  resolve(resolved);
  check_model(resolved);
  check_attention(resolved, attention);
  for (std::size_t i = 0; i < attention.overrides.size(); ++i)
    check_override(resolved, attention, i);
  check_thresholds(attention);
}

}  // namespace quietformer
