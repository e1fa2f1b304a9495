// Features of blocks that docs/features.md lists, against their formulas.
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "layers/block.h"
#include "tests/layers/model_support.h"

namespace quietformer {
namespace {

using namespace test;

constexpr BatchShape kBatch{2, 3};
constexpr std::int64_t kDim = 6;

/// Row of a layer norm with the gains and biases of `path`.
std::vector<double> normed(const ParameterList& parameters, const std::string& path,
                           const std::vector<double>& x) {
  double mean = 0, variance = 0;
  for (const double value : x) mean += value / double(x.size());
  for (const double value : x) variance += (value - mean) * (value - mean) / double(x.size());
  std::vector<double> y;
  for (std::size_t c = 0; c < x.size(); ++c)
    y.push_back((x[c] - mean) / std::sqrt(variance + 1e-5) *
                    get(parameters.find(path + ".weight")->value, std::int64_t(c)) +
                get(parameters.find(path + ".bias")->value, std::int64_t(c)));
  return y;
}

/// Runs y = branch(x) around the sublayer f(u) = u^2 + u and compares every row with
/// formula(parameters, row of x, f, gain), where gain is LayerScale's or 1.
template <class Formula>
void expect_branch(const char* structure, double layer_scale, Formula&& formula) {
  SCOPED_TRACE(std::string(structure) + " with gain " + std::to_string(layer_scale));
  ModelConfig model = tiny_model();
  model.dim = kDim, model.layers = 3;
  model.norm_structure = structure, model.layer_scale = layer_scale;
  resolve(model);
  ParameterList parameters(DType::f64);
  ResidualBranch branch(parameters, "block", 1, model, 0);
  Arena arena("branch");
  branch.declare(arena, kBatch, Purpose::inference);
  arena.commit(), parameters.commit(), parameters.initialise(1);
  scatter(parameters, 0.3);

  const auto f = [](double u) { return u * u + u; };
  const Context ctx;
  const Shape shape{kBatch.batch, kBatch.tokens, kDim};
  const OwnedTensor x = normal(DType::f64, shape, 1), y(DType::f64, shape);
  const Tensor in = branch.input(ctx, x), out = branch.output(kBatch);
  for (std::int64_t i = 0; i < in.count(); ++i) set(out, i, f(get(in, i)));
  branch.join(ctx, y, x);

  std::vector<double> gain(kDim, 1);
  if (layer_scale > 0)
    for (std::int64_t c = 0; c < kDim; ++c)
      gain[std::size_t(c)] = get(parameters.find("block.layer_scale1.weight")->value, c);
  for (std::int64_t row = 0; row < kBatch.rows(); ++row) {
    std::vector<double> from;
    for (std::int64_t c = 0; c < kDim; ++c) from.push_back(get(x, row * kDim + c));
    const std::vector<double> want = formula(parameters, from, f, gain);
    for (std::int64_t c = 0; c < kDim; ++c)
      EXPECT_NEAR(get(y, row * kDim + c), want[std::size_t(c)], 1e-12) << row << ", " << c;
  }
}

const auto kPreNorm = [](const ParameterList& parameters, const std::vector<double>& x,
                         const auto& f, const std::vector<double>& gain) {
  std::vector<double> y = normed(parameters, "block.norm1", x);
  for (std::size_t c = 0; c < y.size(); ++c) y[c] = x[c] + gain[c] * f(y[c]);
  return y;
};

TEST(Feature, PreNorm) {
  expect_branch("pre", 0, kPreNorm);
}

TEST(Feature, LayerScale) {
  expect_branch("pre", 0.4, kPreNorm);
}

// alpha = (2 layers)^(1/4), of 3 layers here.
TEST(Feature, PostNormWithDeepNetsConstant) {
  for (const double layer_scale : {0.0, 0.4})
    expect_branch("post", layer_scale,
                  [](const ParameterList& parameters, std::vector<double> x, const auto& f,
                     const std::vector<double>& gain) {
                    for (std::size_t c = 0; c < x.size(); ++c)
                      x[c] = std::pow(6.0, 0.25) * x[c] + gain[c] * f(x[c]);
                    return normed(parameters, "block.norm1", x);
                  });
}

TEST(Feature, HybridNorm) {
  for (const double layer_scale : {0.0, 0.4})
    expect_branch("hybrid", layer_scale,
                  [](const ParameterList& parameters, const std::vector<double>& x, const auto& f,
                     const std::vector<double>& gain) {
                    std::vector<double> y = normed(parameters, "block.norm1", x);
                    for (double& u : y) u = f(u);
                    y = normed(parameters, "block.norm1_post", y);
                    for (std::size_t c = 0; c < y.size(); ++c) y[c] = x[c] + gain[c] * y[c];
                    return y;
                  });
}

/// Output of self-attention in a model of two heads; weights depend on their names alone.
OwnedTensor attend(const ModelConfig& given, const AttentionConfig& attention,
                   std::int64_t* memory = nullptr, std::string* implementation = nullptr) {
  ModelConfig model = given;
  resolve(model);
  ParameterList parameters(DType::f64);
  SelfAttention layer(parameters, "layer", model, attention, 0, nullptr);
  Arena arena("layer");
  const Context ctx;
  layer.declare(ctx, arena, kBatch, Purpose::inference);
  arena.commit(), parameters.commit(), parameters.initialise(1);
  if (memory != nullptr) *memory = arena.bytes();
  if (implementation != nullptr) *implementation = layer.implementation();
  const Shape shape{kBatch.batch, kBatch.tokens, model.dim};
  OwnedTensor y(DType::f64, shape);
  layer.forward(ctx, y, normal(DType::f64, shape, 1));
  return y;
}

// Queries and keys of length 1 (l2) or sqrt(D) (rmsnorm whose gains are 1): cosine attention.
TEST(Feature, QkNorm) {
  ModelConfig model = tiny_model();
  model.init_std = 1, model.norm_eps = 1e-12;
  AttentionConfig cosine;
  cosine.score = "cosine";
  const OwnedTensor ten = attend(model, cosine);
  cosine.scale = 3 * double(model.head_dim());
  const OwnedTensor three = attend(model, cosine);
  AttentionConfig dot;
  model.qk_norm = "l2";
  EXPECT_TRUE(close(attend(model, dot), ten, 1e-12));
  model.qk_norm = "rmsnorm", dot.scale = 3;
  EXPECT_TRUE(close(attend(model, dot), three, 1e-9));
  model.qk_norm = "none";
  EXPECT_FALSE(close(attend(model, dot), three, 1e-3));
}

/// Of the same weights: without a gate, with one, and with one that nothing closes.
TEST(Feature, AttentionGate) {
  struct Watch final : ProbeSink {
    bool wants(std::string_view name) const override { return name == "layer.gate"; }
    void record(const Context&, std::string_view, const Tensor& value) override {
      seen = copy_of(value);
    }
    OwnedTensor seen;
  };
  ModelConfig model = tiny_model();
  model.init_std = 1;
  // The projection back hands on what it reads, so that heads can be told apart.
  const auto run = [&](AttentionConfig attention, Purpose purpose, ProbeSink* probes) {
    ModelConfig resolved = model;
    resolve(resolved);
    ParameterList parameters(DType::f64);
    SelfAttention layer(parameters, "layer", resolved, attention, 0, nullptr);
    Arena arena("layer");
    Context ctx;
    ctx.probes = probes;
    layer.declare(ctx, arena, kBatch, purpose);
    arena.commit(), parameters.commit(), parameters.initialise(1);
    fill(parameters.find("layer.out.weight")->value, 0);
    for (std::int64_t c = 0; c < model.dim; ++c)
      set(parameters.find("layer.out.weight")->value, c * (model.dim + 1), 1);
    const Shape shape{kBatch.batch, kBatch.tokens, model.dim};
    OwnedTensor y(DType::f64, shape);
    layer.forward(ctx, y, normal(DType::f64, shape, 1));
    if (attention.gate == "none") return y;
    EXPECT_EQ(parameters.find("layer.gate.weight")->shape, (Shape{model.heads, model.head_dim()}));
    EXPECT_EQ(parameters.find("layer.gate.weight")->decay, Decay::yes);
    EXPECT_EQ(parameters.find("layer.gate.bias")->decay, Decay::no);
    if (probes == nullptr) return y;
    const OwnedTensor x = normal(DType::f64, shape, 1);
    const Tensor gates = static_cast<Watch*>(probes)->seen;
    EXPECT_EQ(gates.shape, (Shape{kBatch.batch, kBatch.tokens, model.heads}));
    const std::int64_t dim = model.head_dim();
    for (std::int64_t unit = 0; unit < gates.count(); ++unit) {
      double logit = attention.gate_bias;
      for (std::int64_t d = 0; d < dim; ++d)
        logit += get(parameters.find("layer.gate.weight")->value, unit % model.heads * dim + d) *
                 get(x, unit * dim + d);
      EXPECT_NEAR(get(gates, unit), 1 / (1 + std::exp(-logit)), 1e-14);
    }
    return y;
  };
  AttentionConfig attention;
  const OwnedTensor plain = run(attention, Purpose::inference, nullptr);
  attention.gate = "head", attention.gate_bias = -0.3;
  Watch watch;
  const OwnedTensor gated = run(attention, Purpose::inference, &watch);
  for (std::int64_t i = 0; i < gated.view().count(); ++i)
    EXPECT_NEAR(get(gated, i), get(plain, i) * get(watch.seen, i / model.head_dim()), 1e-14);
  attention.gate_bias = 100;
  EXPECT_TRUE(same_bits(run(attention, Purpose::training, nullptr), plain));
}

TEST(Feature, TheConfigChoosesTheImplementation) {
  AttentionConfig config;
  std::int64_t memory[2];
  std::string took;
  config.implementation = "reference";
  const OwnedTensor reference = attend(tiny_model(), config, &memory[0], &took);
  EXPECT_EQ(took, "reference");
  config.implementation = "flash";
  EXPECT_TRUE(close(attend(tiny_model(), config, &memory[1], &took), reference, 1e-13));
  EXPECT_EQ(took, "flash");
  EXPECT_NE(memory[0], memory[1]) << "they need different scratch";
  config.implementation = "none";
  EXPECT_THROW(attend(tiny_model(), config), InputError);
}

}  // namespace
}  // namespace quietformer
