// What a model is made of: the sections `model:` and `attention:` of a configuration, as plain
// data.
//
// visit() names every key once, in the order of the documented YAML; the reader, the writer and the
// diff of two configurations all use it, so a key cannot be known to one and not to another.
// Strings stay strings here (find_* below turn them into the enums that layers use).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace quietformer {

/// `model:`
struct ModelConfig {
  std::string type = "gpt";  // gpt; encoders: bert, roberta
  std::int64_t layers = 8;
  std::int64_t heads = 8;
  std::int64_t kv_heads = 0;  // key/value heads; 0: as many as heads
  std::int64_t dim = 512;
  std::int64_t context = 1024;
  std::int64_t vocab = 256;
  std::int64_t token_types = 0;        // encoders: kinds of tokens with an embedding of their own
  std::int64_t padding_token = 0;      // encoders: what fills up a sequence; roberta counts others
  std::string mlp = "gelu";            // gelu (tanh form), gelu_erf, swiglu
  std::int64_t mlp_dim = 0;            // 0: four times dim
  std::string norm = "layernorm";      // layernorm, rmsnorm
  std::string norm_structure = "pre";  // pre, post, hybrid
  bool deepnet = true;                 // post: with DeepNet's constants; false: as BERT does it
  std::string position = "learned";    // learned, sinusoidal, rotary, none
  bool bias = true;                    // in linear layers; layernorm keeps its own
  bool tied = true;                    // the head is the token embedding
  std::string qk_norm = "none";        // none, layernorm, rmsnorm, l2
  double layer_scale = 0;              // initial gain of each channel of each branch; 0: none
  double dropout = 0;                  // of embeddings and of both branches
  double norm_eps = 1e-5;
  double rotary_base = 10000;
  double init_std = 0.02;

  std::int64_t head_dim() const { return dim / heads; }

  template <class V>
  void visit(V& v) {
    fields(*this, v);
  }
  template <class V>
  void visit(V& v) const {
    fields(*this, v);
  }
  friend bool operator==(const ModelConfig&, const ModelConfig&) = default;

 private:
  template <class Self, class V>
  static void fields(Self& self, V& v) {
    v.field("type", self.type);
    v.field("layers", self.layers);
    v.field("heads", self.heads);
    v.field("kv_heads", self.kv_heads);
    v.field("dim", self.dim);
    v.field("context", self.context);
    v.field("vocab", self.vocab);
    v.field("token_types", self.token_types);
    v.field("padding_token", self.padding_token);
    v.field("mlp", self.mlp);
    v.field("mlp_dim", self.mlp_dim);
    v.field("norm", self.norm);
    v.field("norm_structure", self.norm_structure);
    v.field("deepnet", self.deepnet);
    v.field("position", self.position);
    v.field("bias", self.bias);
    v.field("tied", self.tied);
    v.field("qk_norm", self.qk_norm);
    v.field("layer_scale", self.layer_scale);
    v.field("dropout", self.dropout);
    v.field("norm_eps", self.norm_eps);
    v.field("rotary_base", self.rotary_base);
    v.field("init_std", self.init_std);
  }
};

/// One value per head: `attention.n`, `sigmoid_bias`, `gamma` and `zeta`.
struct HeadParameterConfig {
  enum class Kind : std::uint8_t {
    fixed,              // values[0] for all heads             YAML: 1.0
    per_head,           // values[h]                                 [1.0, 0.5]
    learned,            // trained, all heads start at `init`        {learned: true, init: 1.0}
    scheduled,          // from -> to, linear over `steps`           {from: 0, to: 1, steps: 1000}
    minus_log_context,  // -ln(model.context); sigmoid_bias only     -log_context
    over_context,       // values[0] / model.context; gamma only     -4/context
  };
  Kind kind = Kind::fixed;
  std::vector<double> values;
  double init = 0;
  double from = 0;
  double to = 0;
  std::int64_t steps = 0;

  static HeadParameterConfig fixed(double value) { return of(Kind::fixed, {value}); }
  static HeadParameterConfig per_head(std::vector<double> values) {
    return of(Kind::per_head, std::move(values));
  }
  static HeadParameterConfig learned(double init) {
    HeadParameterConfig config = of(Kind::learned, {});
    config.init = init;
    return config;
  }
  static HeadParameterConfig scheduled(double from, double to, std::int64_t steps) {
    HeadParameterConfig config = of(Kind::scheduled, {});
    config.from = from, config.to = to, config.steps = steps;
    return config;
  }
  static HeadParameterConfig minus_log_context() { return of(Kind::minus_log_context, {}); }
  static HeadParameterConfig over_context(double value) { return of(Kind::over_context, {value}); }
  friend bool operator==(const HeadParameterConfig&, const HeadParameterConfig&) = default;

 private:
  static HeadParameterConfig of(Kind kind, std::vector<double> values) {
    HeadParameterConfig config;
    config.kind = kind;
    config.values = std::move(values);
    return config;
  }
};

/// The keys that hold one. In YAML their maps are alternatives, not sections: a child's {from, to,
/// steps} must not merge into an inherited {learned, init}.
inline const std::vector<std::string_view> kHeadParameterKeys{"n", "sigmoid_bias", "gamma", "zeta"};

/// What the attention of one layer is.
struct AttentionSettings {
  std::string score = "dot";    // dot, cosine, piecewise
  std::optional<double> scale;  // absent ("default"): 1/sqrt(head dim) for products of plain
                                // vectors, 10 for products of unit vectors (cosine, or qk_norm l2)
  std::int64_t groups = 1;      // cosine: groups of features that are normalised apart
  std::int64_t threshold = 0;   // piecewise: distance from which a pair counts as far
  std::string normalizer = "softmax_n";  // a name of normalizers()
  HeadParameterConfig n = HeadParameterConfig::fixed(1.0);
  HeadParameterConfig sigmoid_bias = HeadParameterConfig::minus_log_context();
  HeadParameterConfig gamma = HeadParameterConfig::fixed(-0.03);  // clipped_softmax
  HeadParameterConfig zeta = HeadParameterConfig::fixed(1.0);
  std::string gate = "none";  // none, head: each head's output times a gate that its token sets
  double gate_bias = 0;       // head: where the gate's bias starts
  bool causal = true;
  std::array<std::int64_t, 2> window{-1, -1};  // keys to the left and right; -1: unlimited
  bool alibi = false;
  double dropout = 0;                   // of the attention weights
  std::string implementation = "auto";  // or a name of implementations()

  template <class V>
  void visit(V& v) {
    fields(*this, v);
  }
  template <class V>
  void visit(V& v) const {
    fields(*this, v);
  }
  friend bool operator==(const AttentionSettings&, const AttentionSettings&) = default;

 protected:
  template <class Self, class V>
  static void fields(Self& self, V& v) {
    v.field("score", self.score);
    v.field("scale", self.scale);
    v.field("groups", self.groups);
    v.field("threshold", self.threshold);
    v.field("normalizer", self.normalizer);
    v.field("n", self.n);
    v.field("sigmoid_bias", self.sigmoid_bias);
    v.field("gamma", self.gamma);
    v.field("zeta", self.zeta);
    v.field("gate", self.gate);
    v.field("gate_bias", self.gate_bias);
    v.field("causal", self.causal);
    v.field("window", self.window);
    v.field("alibi", self.alibi);
    v.field("dropout", self.dropout);
    v.field("implementation", self.implementation);
  }
};

/// An entry of `attention.overrides`: the settings of some layers, where the keys that it does not
/// say are those of the section.
struct AttentionOverride : AttentionSettings {
  std::string layers;  // "*", or a list of numbers and ranges from 0: "0,4-11" (layer_ranges.h)

  template <class V>
  void visit(V& v) {
    v.field("layers", layers);
    AttentionSettings::visit(v);
  }
  template <class V>
  void visit(V& v) const {
    v.field("layers", layers);
    AttentionSettings::visit(v);
  }
  friend bool operator==(const AttentionOverride&, const AttentionOverride&) = default;
};

/// `attention:`
struct AttentionConfig : AttentionSettings {
  std::vector<AttentionOverride> overrides;  // of a layer that several select, the last one counts

  /// The settings of one layer, without overrides.
  AttentionConfig of_layer(std::int64_t layer) const;

  template <class V>
  void visit(V& v) {
    AttentionSettings::visit(v);
    v.variants("overrides", overrides, static_cast<AttentionSettings&>(*this));
  }
  template <class V>
  void visit(V& v) const {
    AttentionSettings::visit(v);
    v.variants("overrides", overrides, static_cast<const AttentionSettings&>(*this));
  }
  friend bool operator==(const AttentionConfig&, const AttentionConfig&) = default;
};

enum class ModelKind : std::uint8_t { gpt, bert, roberta };
enum class MlpKind : std::uint8_t { gelu, gelu_erf, swiglu };
enum class NormKind : std::uint8_t { layernorm, rmsnorm, l2 };  // l2: qk_norm only
enum class NormStructure : std::uint8_t { pre, post, hybrid };
enum class PositionKind : std::uint8_t { learned, sinusoidal, rotary, none };
enum class GateKind : std::uint8_t { none, head };

/// The enum of a value; throws InputError naming the key, the value and the known values.
ModelKind find_model(std::string_view value);
MlpKind find_mlp(std::string_view value);
NormKind find_norm(std::string_view value);
NormStructure find_norm_structure(std::string_view value);
PositionKind find_position(std::string_view value);
GateKind find_gate(std::string_view value);
std::optional<NormKind> find_qk_norm(std::string_view value);  // "none": nullopt

/// Whether a model guesses masked tokens and looks both ways (bert, roberta).
bool is_encoder(const ModelConfig& model);
/// Whether residual streams are multiplied by DeepNet's alpha: post with model.deepnet.
bool uses_deepnet(const ModelConfig& model);

/// Replaces the values that mean "derived" (kv_heads 0, mlp_dim 0) by what they stand for. Throws
/// InputError when dim is out of range.
void resolve(ModelConfig& model);

/// Throws InputError naming key, value and expectation when a value is out of range or values do
/// not fit each other. Takes derived values resolved or not.
void validate(const ModelConfig& model, const AttentionConfig& attention);

}  // namespace quietformer
