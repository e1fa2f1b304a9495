// The whole model's gradient against central differences in f64, over configurations that together
// use every option.
#include <gtest/gtest.h>

#include <functional>

#include "tests/layers/model_support.h"

namespace quietformer {
namespace {

using test::TestGpt;

struct ModelCase {
  std::string name;
  ModelConfig model;
  AttentionConfig attention;
  Mode mode = Mode::evaluate;
  bool padding = false;  // encoders
};

std::ostream& operator<<(std::ostream& out, const ModelCase& c) {
  return out << c.name;
}

ModelCase make(const std::string& name, const std::function<void(ModelCase&)>& change) {
  ModelCase c{name, test::tiny_model(), {}};
  change(c);
  return c;
}

void make_piecewise(ModelCase& c) {
  c.attention.score = "piecewise";
  c.attention.threshold = 2;
  c.model.position = "rotary";
}

/// Four heads of four features: a norm of two features is a step function, which no difference
/// quotient follows.
void make_four_heads(ModelCase& c, std::int64_t kv_heads) {
  c.model.heads = 4;
  c.model.kv_heads = kv_heads;
  c.model.dim = 16;
}

/// Every score with every normaliser of the build.
void add_pairs(std::vector<ModelCase>& cases) {
  for (const char* score : {"dot", "cosine", "piecewise"})
    for (const NormalizerInfo& normalizer : normalizers())
      cases.push_back(
          make(std::string(score) + "_" + std::string(normalizer.name), [&](ModelCase& c) {
            if (std::string(score) == "piecewise") make_piecewise(c);
            c.attention.score = score;
            c.attention.normalizer = normalizer.name;
            if (c.attention.score == "cosine") c.attention.groups = 2;
          }));
}

void add_model_options(std::vector<ModelCase>& cases) {
  for (const char* structure : {"pre", "post", "hybrid"})
    for (const double gain : {0.0, 0.7})
      cases.push_back(make(std::string("structure_") + structure + (gain > 0 ? "_scaled" : ""),
                           [&](ModelCase& c) {
                             c.model.norm_structure = structure;
                             c.model.layer_scale = gain;
                           }));
  for (const char* structure : {"pre", "post", "hybrid"})
    cases.push_back(make(std::string("dropout_") + structure, [&](ModelCase& c) {
      c.mode = Mode::train;
      c.model.norm_structure = structure;
      c.model.layer_scale = 0.5;
      c.model.dropout = 0.25;
      c.attention.dropout = 0.3;
    }));
  cases.push_back(make("dropout_plain", [](ModelCase& c) {
    c.mode = Mode::train;
    c.model.dropout = 0.25;
  }));
  for (const char* norm : {"layernorm", "rmsnorm"})
    for (const char* mlp : {"gelu", "gelu_erf", "swiglu"})
      cases.push_back(make(std::string(norm) + "_" + mlp, [&](ModelCase& c) {
        c.model.norm = norm;
        c.model.mlp = mlp;
      }));
  for (const char* position : {"learned", "sinusoidal", "rotary", "none"})
    cases.push_back(make(std::string("position_") + position,
                         [&](ModelCase& c) { c.model.position = position; }));
  for (const char* qk_norm : {"layernorm", "rmsnorm", "l2"})
    for (const bool piecewise : {false, true})
      cases.push_back(make(std::string("qk_norm_") + qk_norm + (piecewise ? "_piecewise" : ""),
                           [&](ModelCase& c) {
                             if (piecewise) make_piecewise(c);
                             c.model.qk_norm = qk_norm;
                             c.attention.scale = 0.8;
                           }));
  cases.push_back(make("untied_no_bias", [](ModelCase& c) {
    c.model.tied = false;
    c.model.bias = false;
  }));
}

void add_attention_options(std::vector<ModelCase>& cases) {
  for (const std::int64_t kv_heads : {1, 2})
    cases.push_back(make("kv_heads_" + std::to_string(kv_heads), [&](ModelCase& c) {
      make_piecewise(c);
      make_four_heads(c, kv_heads);
      c.model.qk_norm = "rmsnorm";
    }));
  cases.push_back(
      make("learned_n", [](ModelCase& c) { c.attention.n = HeadParameterConfig::learned(0.5); }));
  cases.push_back(make("n_per_head", [](ModelCase& c) {
    c.attention.n = HeadParameterConfig::per_head({0.0, 2.5});
  }));
  cases.push_back(make("learned_sigmoid_bias", [](ModelCase& c) {
    c.attention.normalizer = "sigmoid";
    c.attention.sigmoid_bias = HeadParameterConfig::learned(-1.5);
  }));
  cases.push_back(make("clipped_softmax", [](ModelCase& c) {
    c.attention.normalizer = "clipped_softmax";
    c.attention.gamma = HeadParameterConfig::per_head({-0.2, -0.1});
    c.attention.zeta = HeadParameterConfig::fixed(1.1);
  }));
  cases.push_back(make("alibi", [](ModelCase& c) {
    c.attention.alibi = true;
    c.model.heads = 4;
    c.model.position = "none";
  }));
  for (const char* score : {"dot", "piecewise"})
    cases.push_back(make(std::string("gate_") + score, [&](ModelCase& c) {
      if (std::string(score) == "piecewise") make_piecewise(c);
      c.attention.gate = "head";
      c.attention.gate_bias = 0.7;
    }));
  cases.push_back(make("window", [](ModelCase& c) { c.attention.window = {2, -1}; }));
  cases.push_back(make("everything", [](ModelCase& c) {
    make_piecewise(c);
    c.mode = Mode::train;
    make_four_heads(c, 2);
    c.model.norm = "rmsnorm";
    c.model.norm_structure = "hybrid";
    c.model.qk_norm = "layernorm";
    c.model.mlp = "swiglu";
    c.model.layer_scale = 0.5;
    c.model.dropout = 0.1;
    c.model.tied = false;
    c.attention.n = HeadParameterConfig::learned(2);
    c.attention.gate = "head";
    c.attention.alibi = true;
    c.attention.window = {4, -1};
    c.attention.dropout = 0.1;
  }));
}

void add_encoders(std::vector<ModelCase>& cases) {
  const auto encoder = [&](const std::string& name, const auto& change) {
    ModelCase c{name, test::tiny_bert(), test::both_ways()};
    change(c);
    cases.push_back(c);
  };
  encoder("bert", [](ModelCase&) {});
  encoder("bert_padding", [](ModelCase& c) {
    c.padding = true;
    c.attention.gate = "head";
    c.model.token_types = 0;
    c.model.bias = false;
  });
  encoder("roberta_padding", [](ModelCase& c) {
    c.padding = true;
    c.model.type = "roberta";
    c.model.padding_token = 3;
    c.model.token_types = 1;
  });
  encoder("bert_everything", [](ModelCase& c) {
    c.padding = true;
    c.mode = Mode::train;
    c.model.norm = "rmsnorm";
    c.model.norm_structure = "pre";
    c.model.mlp = "swiglu";
    c.model.position = "rotary";
    c.model.tied = false;
    c.model.dropout = 0.1;
    c.attention.n = HeadParameterConfig::learned(2);
    c.attention.dropout = 0.1;
    c.attention.alibi = true;
    c.attention.window = {4, 2};
  });
}

std::vector<ModelCase> all_cases() {
  std::vector<ModelCase> cases;
  add_pairs(cases);
  add_model_options(cases);
  add_attention_options(cases);
  add_encoders(cases);
  return cases;
}

class GptGradient : public testing::TestWithParam<ModelCase> {};

/// d loss / d step of x + step * direction, by Richardson's extrapolation of central differences.
double slope_along(TestGpt& model, const Tensor& x, const Tensor& direction) {
  const OwnedTensor before = test::copy_of(x);
  const auto loss_at = [&](double step) {
    for (std::int64_t i = 0; i < x.count(); ++i)
      x.as<double>()[i] = before.as<double>()[i] + step * direction.as<double>()[i];
    return model.loss();
  };
  const auto central = [&](double h) { return (loss_at(h) - loss_at(-h)) / (2 * h); };
  const double slope = (4 * central(2e-5) - central(4e-5)) / 3;
  loss_at(0);
  return slope;
}

TEST_P(GptGradient, MatchesCentralDifferences) {
  const ModelCase& c = GetParam();
  TestGpt model(c.model, c.attention, DType::f64, {2, 6});
  test::scatter(model.parameters, 0.3);
  model.ctx.mode = c.mode;
  model.ctx.random = {9, 4, 3};
  model.targets.as<std::int32_t>()[3] = -100;
  if (c.padding) test::pad(model.batch(), 1, 2, c.model.padding_token);

  // Gradients accumulate: what was there before must stay in the sum.
  for (const Parameter& p : model.parameters.all()) test::fill(p.grad.get(), 0.25);
  model.loss();
  model.gpt.backward(model.ctx, 0.5);

  for (const Parameter& p : model.parameters.all()) {
    const Tensor grad = p.grad;
    for (std::int64_t i = 0; i < grad.count(); ++i)
      grad.as<double>()[i] = (grad.as<double>()[i] - 0.25) / 0.5;
    // Random directions see every element; an error in any of them shows with probability one.
    for (std::uint32_t seed : {1u, 2u}) {
      const OwnedTensor direction = test::normal(DType::f64, grad.shape, seed);
      double expected = 0, scale = 0;
      for (std::int64_t i = 0; i < grad.count(); ++i) {
        const double term = grad.as<double>()[i] * direction.as<double>()[i];
        expected += term;
        scale += term * term;
      }
      EXPECT_NEAR(slope_along(model, p.value, direction), expected, 1e-7 * std::sqrt(scale) + 1e-10)
          << c.name << " " << p.name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, GptGradient, testing::ValuesIn(all_cases()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace quietformer
