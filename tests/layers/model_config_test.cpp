#include "layers/model_config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>

#include "core/check.h"
#include "core/config.h"

namespace quietformer {
namespace {

struct Refusal {
  std::function<void(ModelConfig&, AttentionConfig&)> change;
  std::string message;  // a part of it: key, value found, what was expected
};

using M = ModelConfig;
using A = AttentionConfig;

std::vector<Refusal> model_refusals() {
  const double nan = std::nan("");
  return {
      {[](M& m, A&) { m.type = "rnn"; },
       "model.type: found 'rnn', expected one of gpt, bert, roberta"},
      {[](M& m, A&) { m.type = "bert"; },
       "attention.causal: found true, expected false: model.type bert looks both ways"},
      {[](M& m, A& a) { m.type = "roberta", m.position = "none", a.causal = false; },
       "model.position: found 'none', expected learned for model.type roberta"},
      {[](M& m, A&) { m.token_types = 2; }, "model.token_types: found 2, expected 0 to 0"},
      {[](M& m, A& a) { m.type = "bert", m.token_types = -1, a.causal = false; },
       "model.token_types: found -1"},
      {[](M& m, A&) { m.padding_token = 256; },
       "model.padding_token: found 256, expected 0 to 255"},
      {[](M& m, A&) { m.layers = 0; }, "model.layers: found 0, expected 1 to"},
      {[](M& m, A&) { m.heads = -2; }, "model.heads: found -2"},
      {[](M& m, A&) { m.dim = 100; }, "model.dim: 100 is not divisible by model.heads 8"},
      {[](M& m, A&) { m.dim = std::int64_t{1} << 62; }, "model.dim: found 4611686018427387904"},
      {[](M& m, A&) { m.dim = 0; }, "model.dim: found 0"},
      {[](M& m, A&) { m.heads = 1; }, "model.heads: 1 gives head dim 512, expected at most 256"},
      {[](M& m, A&) { m.kv_heads = 3; }, "model.kv_heads: 3 does not divide model.heads 8"},
      {[](M& m, A&) { m.kv_heads = 16; }, "model.kv_heads: 16 does not divide model.heads 8"},
      {[](M& m, A&) { m.kv_heads = -1; }, "model.kv_heads: found -1"},
      {[](M& m, A&) { m.context = 0; }, "model.context: found 0, expected 1 to"},
      {[](M& m, A&) { m.vocab = 0; }, "model.vocab: found 0"},
      {[](M& m, A&) { m.mlp_dim = -4; }, "model.mlp_dim: found -4"},
      {[](M& m, A&) { m.mlp = "relu"; },
       "model.mlp: found 'relu', expected one of gelu, gelu_erf, swiglu"},
      {[](M& m, A&) { m.norm = "l2"; },
       "model.norm: found 'l2', expected one of layernorm, rmsnorm"},
      {[](M& m, A&) { m.norm_structure = "sandwich"; }, "model.norm_structure: found 'sandwich'"},
      {[](M& m, A&) { m.position = "rope"; }, "model.position: found 'rope'"},
      {[](M& m, A&) { m.qk_norm = "yes"; }, "model.qk_norm: found 'yes', expected one of none, "},
      {[](M& m, A&) { m.dim = 8 * 3, m.position = "rotary"; },
       "model.position: rotary needs an even head dim, found 3 (model.dim 24 / model.heads 8)"},
      {[](M& m, A&) { m.layer_scale = -1e-4; }, "model.layer_scale: found -0.0001"},
      {[=](M& m, A&) { m.layer_scale = nan; }, "model.layer_scale: found nan"},
      {[](M& m, A&) { m.dropout = 1; }, "model.dropout: found 1, expected at least 0 and below 1"},
      {[=](M& m, A&) { m.dropout = nan; }, "model.dropout: found nan"},
      {[](M& m, A&) { m.norm_eps = 0; }, "model.norm_eps: found 0, expected a positive number"},
      {[](M& m, A&) { m.rotary_base = -1; }, "model.rotary_base: found -1"},
      {[](M& m, A&) { m.init_std = -0.02; }, "model.init_std: found -0.02"},
  };
}

std::vector<Refusal> attention_refusals() {
  using H = HeadParameterConfig;
  const double inf = std::numeric_limits<double>::infinity();
  return {
      {[](M&, A& a) { a.score = "euclid"; }, "attention.score: "},
      {[](M&, A& a) { a.normalizer = "relu"; }, "attention.normalizer: "},
      {[](M&, A& a) { a.scale = 0; }, "attention.scale: found 0, expected a positive number"},
      {[=](M&, A& a) { a.scale = inf; }, "attention.scale: found inf"},
      {[](M&, A& a) { a.groups = 0; }, "attention.groups: found 0"},
      {[](M&, A& a) { a.score = "cosine", a.groups = 7; },
       "attention.groups: 7 does not divide the head dim 64"},
      {[](M&, A& a) { a.threshold = -1; }, "attention.threshold: found -1"},
      {[](M& m, A& a) { a.score = "piecewise", m.position = "rotary"; },
       "attention.threshold: found 0, expected at least 1 with attention.score piecewise"},
      {[](M&, A& a) { a.score = "piecewise", a.threshold = 8; },
       "model.position: found 'learned', expected rotary with attention.score piecewise"},
      {[](M&, A& a) { a.n = H::fixed(-1); }, "attention.n: found -1, expected zero or a positive"},
      {[](M&, A& a) { a.n = H::fixed(std::nan("")); }, "attention.n: found nan"},
      {[](M&, A& a) {
         a.n = H::per_head({1, 2});
       },
       "attention.n: found 2 values, expected 8 (model.heads 8)"},
      {[](M&, A& a) { a.n = H::learned(0); },
       "attention.n.init: found 0, expected a positive number"},
      {[](M&, A& a) { a.n = H::scheduled(0, 1, 0); }, "attention.n.steps: found 0, expected 1 to"},
      {[](M&, A& a) { a.n = H::scheduled(-1, 1, 5); }, "attention.n.from: found -1"},
      {[](M&, A& a) { a.n = H::minus_log_context(); }, "attention.n: found -log_context"},
      {[=](M&, A& a) { a.sigmoid_bias = H::fixed(inf); }, "attention.sigmoid_bias: found inf"},
      {[=](M&, A& a) { a.sigmoid_bias = H::learned(inf); },
       "attention.sigmoid_bias.init: found inf"},
      {[](M&, A& a) { a.gamma = H::fixed(0.1); },
       "attention.gamma: found 0.1, expected zero or a negative number"},
      {[](M&, A& a) { a.gamma = H::over_context(4); },
       "attention.gamma: found 4, expected zero or"},
      {[](M&, A& a) { a.gamma = H::learned(-0.1); }, "attention.gamma: found learned, expected a"},
      {[](M&, A& a) { a.zeta = H::fixed(0.9); }, "attention.zeta: found 0.9, expected 1 or more"},
      {[=](M&, A& a) { a.zeta = H::scheduled(1, inf, 5); }, "attention.zeta.to: found inf"},
      {[](M&, A& a) { a.gate = "token"; },
       "attention.gate: found 'token', expected one of none, head"},
      {[=](M&, A& a) { a.gate_bias = -inf; }, "attention.gate_bias: found -inf"},
      {[](M&, A& a) { a.causal = false; }, "attention.causal: found false, expected true"},
      {[](M&, A& a) {
         a.window = {-2, 0};
       },
       "attention.window: found -2, expected -1 to"},
      {[](M&, A& a) { a.dropout = -0.1; }, "attention.dropout: found -0.1"},
      {[](M&, A& a) { a.implementation = "cudnn"; },
       "attention.implementation: found 'cudnn', expected one of auto, "},
  };
}

TEST(ModelConfig, RefusalsNameKeyValueAndExpectation) {
  std::vector<Refusal> refusals = model_refusals();
  for (Refusal& refusal : attention_refusals()) refusals.push_back(std::move(refusal));
  for (const Refusal& refusal : refusals) {
    ModelConfig model;
    AttentionConfig attention;
    refusal.change(model, attention);
    try {
      validate(model, attention);
      ADD_FAILURE() << "accepted; expected: " << refusal.message;
    } catch (const InputError& error) {
      const std::string text = error.what();
      EXPECT_EQ(text.find(refusal.message), 0u) << text << "\nexpected: " << refusal.message;
      EXPECT_EQ(text.find('\n'), std::string::npos);
    }
  }
}

TEST(ModelConfig, DefaultsAndEveryNamedValueAreAccepted) {
  validate({}, {});
  for (const char* mlp : {"gelu", "gelu_erf", "swiglu"})
    for (const char* norm : {"layernorm", "rmsnorm"})
      for (const char* structure : {"pre", "post", "hybrid"})
        for (const char* position : {"learned", "sinusoidal", "rotary", "none"})
          for (const char* qk_norm : {"none", "layernorm", "rmsnorm", "l2"}) {
            ModelConfig model;
            model.mlp = mlp, model.norm = norm, model.norm_structure = structure;
            model.position = position, model.qk_norm = qk_norm;
            validate(model, {});
          }
}

TEST(ModelConfig, ResolveFillsWhatIsDerived) {
  ModelConfig model;
  resolve(model);
  EXPECT_EQ(model.kv_heads, 8);
  EXPECT_EQ(model.mlp_dim, 2048);
  model.kv_heads = 2, model.mlp_dim = 100;
  resolve(model);
  EXPECT_EQ(model.kv_heads, 2);
  EXPECT_EQ(model.mlp_dim, 100);
}

struct Keys {
  std::vector<std::string> names;
  template <class T>
  void field(const char* key, T&) {
    names.emplace_back(key);
  }
  template <class List, class Base>
  void variants(const char* key, List&, Base&) {
    names.emplace_back(key);
  }
};

TEST(ModelConfig, VisitNamesTheDocumentedKeysInOrder) {
  Keys model, attention;
  ModelConfig().visit(model);
  const AttentionConfig constant;
  constant.visit(attention);
  EXPECT_EQ(
      model.names,
      (std::vector<std::string>{
          "type",           "layers",      "heads",         "kv_heads",    "dim",     "context",
          "vocab",          "token_types", "padding_token", "mlp",         "mlp_dim", "norm",
          "norm_structure", "deepnet",     "position",      "bias",        "tied",    "qk_norm",
          "layer_scale",    "dropout",     "norm_eps",      "rotary_base", "init_std"}));
  EXPECT_EQ(attention.names, (std::vector<std::string>{
                                 "score", "scale", "groups", "threshold", "normalizer", "n",
                                 "sigmoid_bias", "gamma", "zeta", "gate", "gate_bias", "causal",
                                 "window", "alibi", "dropout", "implementation", "overrides"}));
}

TEST(ModelConfig, ReaderAndWriterUnderstandIt) {
  ModelConfig model;
  const ConfigValue tree = parse_yaml("{layers: 3, norm: rmsnorm, tied: false, dropout: 0.1}", "x");
  ConfigReader reader(tree, "model");
  model.visit(reader);
  reader.finish();
  EXPECT_EQ(model.layers, 3);
  EXPECT_EQ(model.norm, "rmsnorm");
  ConfigWriter writer;
  model.visit(writer);
  ModelConfig again;
  ConfigReader second(writer.root(), "model");
  again.visit(second);
  EXPECT_EQ(again, model);
}

}  // namespace
}  // namespace quietformer
