// Layers as classes: gradients of inputs and parameters, equality of inference and training, and
// self-attention against a direct evaluation of its definition.
#include <gtest/gtest.h>

#include <functional>

#include "layers/block.h"
#include "tests/layers/model_support.h"
#include "tests/support/finite_difference.h"
#include "tests/support/tensors.h"

namespace quietformer {
namespace {

using namespace test;

/// A layer of one input and one output, (B,T,C) -> (B,T,C).
struct AnyLayer {
  std::function<void(const Context&, Arena&, BatchShape, Purpose)> declare;
  std::function<void(const Context&, const Tensor& y, const Tensor& x)> forward;
  std::function<void(const Context&, const Tensor& dx, const Tensor& dy)> backward;
};
using MakeLayer = std::function<AnyLayer(ParameterList&)>;

template <class L>
AnyLayer any(std::shared_ptr<L> layer) {
  return {
      [layer](const Context& ctx, Arena& arena, BatchShape shape, Purpose purpose) {
        if constexpr (requires { layer->declare(ctx, arena, shape, purpose); })
          layer->declare(ctx, arena, shape, purpose);
        else
          layer->declare(arena, shape, purpose);
      },
      [layer](const Context& ctx, const Tensor& y, const Tensor& x) { layer->forward(ctx, y, x); },
      [layer](const Context& ctx, const Tensor& dx, const Tensor& dy) {
        if constexpr (requires { layer->backward(ctx, dx, dy); }) {
          layer->backward(ctx, dx, dy);
        } else {  // in place
          for (std::int64_t i = 0; i < dx.count(); ++i) set(dx, i, get(dy, i));
          layer->backward(ctx, dx);
        }
      }};
}

struct Harness {
  Harness(const MakeLayer& make, DType dtype, BatchShape shape, std::int64_t dim,
          Purpose purpose = Purpose::training, int threads = 1)
      : parameters(dtype),
        layer(make(parameters)),
        x(normal(dtype, {shape.batch, shape.tokens, dim}, 1)),
        dy(normal(dtype, {shape.batch, shape.tokens, dim}, 2)),
        y(dtype, {shape.batch, shape.tokens, dim}),
        dx(dtype, {shape.batch, shape.tokens, dim}) {
    ctx.threads = threads;
    layer.declare(ctx, arena, shape, purpose);
    arena.commit();
    parameters.commit();
    parameters.initialise(1);
    scatter(parameters, 0.3);
  }
  double loss() {
    layer.forward(ctx, y, x);
    double sum = 0;
    for (std::int64_t i = 0; i < dy.view().count(); ++i) sum += get(y, i) * get(dy, i);
    return sum;
  }
  Context ctx;
  ParameterList parameters;
  AnyLayer layer;
  Arena arena{"layer"};
  OwnedTensor x, dy;
  GuardedTensor y, dx;
};

ModelConfig resolved(ModelConfig model) {
  resolve(model);
  return model;
}

AttentionConfig piecewise(std::int64_t threshold) {
  AttentionConfig attention;
  attention.score = "piecewise";
  attention.threshold = threshold;
  return attention;
}

MakeLayer make_mlp(const ModelConfig& model) {
  return [=](ParameterList& p) { return any(std::make_shared<Mlp>(p, "mlp", resolved(model))); };
}

template <class L>
MakeLayer make_with_rotary(const ModelConfig& model, const AttentionConfig& attention) {
  return [=](ParameterList& p) {
    struct Owner {
      std::optional<Rotary> rotary;
      std::optional<L> layer;
    };
    auto owner = std::make_shared<Owner>();
    if (model.position == "rotary") owner->rotary.emplace(p.dtype(), resolved(model), attention);
    owner->layer.emplace(p, "layer", resolved(model), attention, 3u,
                         owner->rotary ? &*owner->rotary : nullptr);
    return any(std::shared_ptr<L>(owner, &*owner->layer));
  };
}

struct LayerCase {
  std::string name;
  MakeLayer make;
  ModelConfig model;
};

std::vector<LayerCase> layer_cases() {
  std::vector<LayerCase> cases;
  for (const char* mlp : {"gelu", "gelu_erf", "swiglu"}) {
    ModelConfig model = tiny_model();
    model.mlp = mlp;
    cases.push_back({mlp, make_mlp(model), model});
  }
  ModelConfig model = tiny_model();
  cases.push_back({"attention", make_with_rotary<SelfAttention>(model, {}), model});
  model.position = "rotary";
  model.heads = 4, model.kv_heads = 2;
  model.qk_norm = "layernorm";
  cases.push_back(
      {"attention_piecewise", make_with_rotary<SelfAttention>(model, piecewise(2)), model});
  AttentionConfig two_sided;  // a layer may look ahead where the model may not
  two_sided.causal = false;
  two_sided.n = HeadParameterConfig::learned(0.7);
  cases.push_back(
      {"attention_two_sided", make_with_rotary<SelfAttention>(model, two_sided), model});
  two_sided.gate = "head", two_sided.gate_bias = 0.4;
  cases.push_back({"attention_gate", make_with_rotary<SelfAttention>(model, two_sided), model});
  for (const char* structure : {"pre", "post", "hybrid"}) {
    model.norm_structure = structure;
    model.layer_scale = 0.6;
    cases.push_back(
        {std::string("block_") + structure, make_with_rotary<Block>(model, piecewise(2)), model});
  }
  return cases;
}

TEST(Layers, EveryElementOfEveryGradientMatchesCentralDifferences) {
  for (const LayerCase& c : layer_cases()) {
    Harness h(c.make, DType::f64, {2, 4}, c.model.dim);
    h.loss();
    for (const Parameter& p : h.parameters.all()) fill(p.grad.get(), 3);
    fill(h.dx, 7);
    h.layer.backward(h.ctx, h.dx, h.dy);
    EXPECT_TRUE(h.dx.intact() && h.y.intact()) << c.name;
    // A small step: a norm of eight numbers that are nearly alike bends sharply.
    DifferenceOptions options;
    options.step = 1e-6;
    expect_gradient(
        c.name + " x", h.x, h.dx, [&] { return h.loss(); }, options);
    for (const Parameter& p : h.parameters.all()) {
      const OwnedTensor gradient = copy_of(p.grad.get());
      for (std::int64_t i = 0; i < gradient.view().count(); ++i) gradient.as<double>()[i] -= 3;
      expect_gradient(
          c.name + " " + p.name, p.value.get(), gradient, [&] { return h.loss(); }, options);
    }
  }
}

TEST(Layers, PrecisionThreadsPurposeAndSmallerBatches) {
  for (const LayerCase& c : layer_cases()) {
    const BatchShape shape{3, 7}, smaller{2, 5};
    Harness single(c.make, DType::f32, shape, c.model.dim);
    Harness exact(c.make, DType::f64, shape, c.model.dim);
    Harness threaded(c.make, DType::f32, shape, c.model.dim, Purpose::training, 3);
    Harness inference(c.make, DType::f32, shape, c.model.dim, Purpose::inference);
    for (Harness* h : {&single, &exact, &threaded}) {
      h->loss();
      h->layer.backward(h->ctx, h->dx, h->dy);
    }
    inference.loss();
    EXPECT_TRUE(close(single.y, exact.y, 2e-5)) << c.name;
    // Gradients through several norms: the tolerance of a model's.
    EXPECT_TRUE(close(single.dx, exact.dx, 1e-4)) << c.name;
    EXPECT_TRUE(same_bits(single.y, threaded.y)) << c.name;
    EXPECT_TRUE(same_bits(single.dx, threaded.dx)) << c.name;
    EXPECT_TRUE(same_bits(single.y, inference.y)) << c.name;
    for (std::size_t i = 0; i < single.parameters.all().size(); ++i)
      EXPECT_TRUE(
          same_bits(single.parameters.all()[i].grad.get(), threaded.parameters.all()[i].grad.get()))
          << c.name << " " << single.parameters.all()[i].name;

    // The same layer on fewer sequences and tokens: as if it had been declared for them.
    Harness small(c.make, DType::f32, smaller, c.model.dim);
    small.loss();
    small.layer.backward(small.ctx, small.dx, small.dy);
    GuardedTensor y(DType::f32, small.x.view().shape), dx(DType::f32, small.x.view().shape);
    single.layer.forward(single.ctx, y, small.x);
    single.layer.backward(single.ctx, dx, small.dy);
    EXPECT_TRUE(same_bits(y, small.y)) << c.name;
    EXPECT_TRUE(same_bits(dx, small.dx)) << c.name;
    EXPECT_TRUE(y.intact() && dx.intact());
  }
}

TEST(Linear, AddsToTheInputGradientOnRequest) {
  Context ctx;
  ParameterList parameters(DType::f64);
  Linear linear(parameters, "x", 3, 2, Bias::yes, Init::normal(1));
  parameters.commit();
  parameters.initialise(1);
  const OwnedTensor x = normal(DType::f64, {4, 3}, 1), y(DType::f64, {4, 2}),
                    dy = normal(DType::f64, {4, 2}, 2), plain(DType::f64, {4, 3}), sum = copy_of(x);
  linear.forward(ctx, y, x);
  linear.backward(ctx, plain, dy);
  linear.backward(ctx, sum, dy, Accumulate::add);
  for (int i = 0; i < 12; ++i) EXPECT_NEAR(get(sum, i), get(x, i) + get(plain, i), 1e-14);
}

/// y of a self-attention layer without norms of q and k, evaluated from its definition: the score
/// of a rotary pair through the rotation by the distance alone, min(distance, threshold) when
/// piecewise.
struct DirectAttention {
  const ModelConfig& model;
  const ParameterList& parameters;
  double n;
  std::int64_t threshold;  // of the distance; beyond the context: none
  bool alibi;

  double at(const std::string& name, std::int64_t i) const {
    return get(parameters.find(name)->value.get(), i);
  }
  /// Feature `d` of packed row `row` of the projection of token x (C).
  double projected(const double* x, std::int64_t row) const {
    double sum = at("layer.qkv.bias", row);
    for (std::int64_t c = 0; c < model.dim; ++c)
      sum += at("layer.qkv.weight", row * model.dim + c) * x[c];
    return sum;
  }
  double score(const double* xi, const double* xj, std::int64_t h, std::int64_t distance) const {
    const std::int64_t dim = model.head_dim(), half = dim / 2;
    const std::int64_t q = h * dim;
    const std::int64_t k = (model.heads + h / (model.heads / model.kv_heads)) * dim;
    double sum = 0;
    for (std::int64_t d = 0; d < half; ++d) {
      const double angle = double(std::min(distance, threshold)) *
                           std::pow(model.rotary_base, -2.0 * double(d) / double(dim));
      const double q1 = projected(xi, q + d), q2 = projected(xi, q + d + half);
      const double k1 = projected(xj, k + d), k2 = projected(xj, k + d + half);
      sum += (q1 * k1 + q2 * k2) * std::cos(angle) + (q1 * k2 - q2 * k1) * std::sin(angle);
    }
    const double slope = alibi ? std::exp2(-8.0 * double(h + 1) / double(model.heads)) : 0;
    return sum / std::sqrt(double(dim)) - slope * double(distance);
  }
  /// Output of token i of one sequence x (T, C).
  std::vector<double> operator()(const double* x, std::int64_t i) const {
    const std::int64_t dim = model.head_dim();
    std::vector<double> context(model.dim), y(model.dim);
    for (std::int64_t h = 0; h < model.heads; ++h) {
      double denominator = n;
      for (std::int64_t j = 0; j <= i; ++j)
        denominator += std::exp(score(x + i * model.dim, x + j * model.dim, h, i - j));
      const std::int64_t v =
          (model.heads + model.kv_heads + h / (model.heads / model.kv_heads)) * dim;
      for (std::int64_t j = 0; j <= i; ++j) {
        const double weight =
            std::exp(score(x + i * model.dim, x + j * model.dim, h, i - j)) / denominator;
        for (std::int64_t d = 0; d < dim; ++d)
          context[h * dim + d] += weight * projected(x + j * model.dim, v + d);
      }
    }
    for (std::int64_t c = 0; c < model.dim; ++c) {
      y[c] = at("layer.out.bias", c);
      for (std::int64_t k = 0; k < model.dim; ++k)
        y[c] += at("layer.out.weight", c * model.dim + k) * context[k];
    }
    return y;
  }
};

TEST(SelfAttention, IsItsDefinition) {
  ModelConfig model = tiny_model();
  model.position = "rotary";
  model.heads = 4, model.kv_heads = 2, model.dim = 16;
  model.rotary_base = 20;
  model = resolved(model);
  const std::int64_t tokens = 7;
  for (const std::int64_t threshold : {std::int64_t{1}, std::int64_t{3}, std::int64_t{100}}) {
    AttentionConfig attention = piecewise(threshold);
    if (threshold == 100) attention = {};  // plain rotary
    attention.alibi = threshold != 1;
    attention.n = HeadParameterConfig::fixed(0.8);
    Harness h(make_with_rotary<SelfAttention>(model, attention), DType::f64, {2, tokens},
              model.dim);
    h.loss();
    const DirectAttention direct{model, h.parameters, 0.8, threshold, attention.alibi};
    for (std::int64_t b = 0; b < 2; ++b)
      for (std::int64_t i = 0; i < tokens; ++i) {
        const auto want = direct(h.x.as<double>() + b * tokens * model.dim, i);
        for (std::int64_t c = 0; c < model.dim; ++c)
          EXPECT_NEAR(get(h.y, (b * tokens + i) * model.dim + c), want[c], 1e-12);
      }
  }
}

TEST(ResidualBranch, TheTwoBranchesOfABlockDropDifferentElements) {
  ModelConfig model = resolved(tiny_model());
  model.dropout = 0.5;
  const Shape shape{2, 7, 8};
  std::vector<OwnedTensor> joined;
  for (const int index : {1, 2}) {
    ParameterList parameters(DType::f32);
    ResidualBranch branch(parameters, "x", index, model, 0);
    Arena arena("branch");
    branch.declare(arena, {2, 7}, Purpose::inference);
    arena.commit(), parameters.commit();
    Context ctx;
    ctx.mode = Mode::train;
    const OwnedTensor x(DType::f32, shape), y(DType::f32, shape);
    branch.input(ctx, x);
    fill(branch.output({2, 7}), 1);
    branch.join(ctx, y, x);
    joined.push_back(copy_of(y));
  }
  EXPECT_EQ(max_abs(joined[0]), 2);
  EXPECT_FALSE(same_bits(joined[0], joined[1]));
}

TEST(SelfAttention, AThresholdBeyondTheContextIsPlainRotary) {
  ModelConfig model = tiny_model();
  model.position = "rotary";
  Harness far(make_with_rotary<SelfAttention>(model, piecewise(1 << 20)), DType::f64, {2, 7}, 8);
  Harness plain(make_with_rotary<SelfAttention>(model, {}), DType::f64, {2, 7}, 8);
  far.loss(), plain.loss();
  EXPECT_TRUE(close(far.y, plain.y, 1e-14));
}

TEST(SelfAttention, AnImplementationThatDoesNotExistIsAnError) {
  AttentionConfig attention;
  attention.implementation = "nothing";
  EXPECT_THROW(
      Harness(make_with_rotary<SelfAttention>(tiny_model(), attention), DType::f32, {1, 4}, 8),
      InputError);
}

}  // namespace
}  // namespace quietformer
