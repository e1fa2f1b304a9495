#include "optim/optimizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <string>

#include "tests/support/allocations.h"

namespace quietformer {
namespace {

// Sizes that leave padding between parameters and need several chunks.
void build(ParameterList& parameters) {
  parameters.add("embedding", {101, 97}, Init::normal(0.5));
  parameters.add("norm.weight", {97}, Init::constant(1));
  parameters.add("norm.bias", {97}, Init::normal(0.1));
  parameters.add("linear", {64, 48}, Init::normal(0.5));
  parameters.commit();
  parameters.initialise(3);
}

template <class T>
void fill_gradients(const ParameterList& parameters, std::uint32_t step) {
  std::uint32_t stream = 0;
  for (const Parameter& p : parameters.all()) {
    const Tensor grad = p.grad;
    const RandomKey key = stream_key(9, RandomPurpose::initialisation, stream++, step);
    for (std::int64_t i = 0; i < grad.count(); ++i)
      grad.as<T>()[i] = T(uniform24(philox(key, std::uint32_t(i), 0, 0, 0).word[0]) - 0.5f);
  }
}

// The recurrences of the papers and of torch's documentation, one element at a time, in double.
struct Reference {
  double value = 0, m = 0, v = 0;

  void step(const OptimConfig& c, double lr, int t, double g, bool decayed) {
    const double wd = decayed ? c.weight_decay : 0, b1 = c.betas[0], b2 = c.betas[1];
    if (c.type == "adamw") {
      value -= lr * wd * value;
      m = b1 * m + (1 - b1) * g;
      v = b2 * v + (1 - b2) * g * g;
      const double m_hat = m / (1 - std::pow(b1, t)), v_hat = v / (1 - std::pow(b2, t));
      value -= lr * m_hat / (std::sqrt(v_hat) + c.eps);
    } else if (c.type == "sgd") {
      g += wd * value;
      m = t == 1 ? g : b1 * m + g;
      value -= lr * m;
    } else {
      const double update = b1 * m + (1 - b1) * g;
      value -= lr * (double((update > 0) - (update < 0)) + wd * value);
      m = b2 * m + (1 - b2) * g;
    }
  }
};

template <class T>
void compare_with_reference(const std::string& type, double tolerance) {
  OptimConfig config;
  config.type = type;
  config.weight_decay = 0.3;
  ParameterList parameters(dtype_of<T>());
  build(parameters);
  std::map<std::string, std::vector<Reference>> references;
  for (const Parameter& p : parameters.all())
    for (std::int64_t i = 0; i < p.value.get().count(); ++i)
      references[p.name].push_back({p.value.get().as<T>()[i], 0, 0});
  const auto optimizer = make_optimizer(config, parameters);
  Context ctx;
  ctx.threads = 2;
  for (int step = 0; step < 12; ++step) {
    const double lr = 0.01 / (1 + step), scale = step % 2 ? 0.25 : 1.0;
    fill_gradients<T>(parameters, std::uint32_t(step));
    for (const Parameter& p : parameters.all())
      for (std::size_t i = 0; i < references[p.name].size(); ++i)
        references[p.name][i].step(config, lr, step + 1, scale * p.grad.get().as<T>()[i],
                                   p.name == "embedding" || p.name == "linear");
    optimizer->step(ctx, lr, step, scale);
    for (const Parameter& p : parameters.all())
      for (std::size_t i = 0; i < references[p.name].size(); ++i)
        ASSERT_NEAR(p.value.get().as<T>()[i], references[p.name][i].value, tolerance)
            << type << " " << p.name << "[" << i << "] after step " << step;
  }
}

TEST(Optimizer, EveryRuleMatchesItsRecurrence) {
  for (std::string_view rule : optimizer_rules()) {
    compare_with_reference<double>(std::string(rule), 1e-13);
    compare_with_reference<float>(std::string(rule), 2e-6);
  }
}

// One parameter of one matrix element, driven by hand.
struct Single {
  explicit Single(const OptimConfig& config, double start) : parameters(DType::f64) {
    parameters.add("w", {1, 1}, Init::constant(start));
    parameters.commit();
    parameters.initialise(1);
    optimizer = make_optimizer(config, parameters);
  }
  double step(double grad, double lr, std::int64_t index) {
    *parameters.all()[0].grad.get().as<double>() = grad;
    optimizer->step(ctx, lr, index, 1);
    return *parameters.all()[0].value.get().as<double>();
  }
  Context ctx;
  ParameterList parameters;
  std::unique_ptr<Optimizer> optimizer;
};

TEST(Optimizer, AdamWKnownValues) {
  OptimConfig config;
  config.betas = {0.9, 0.999};
  config.weight_decay = 0.01;
  Single one(config, 1.0);
  // Corrections cancel on the first step: 1 (1 - 0.1 * 0.01) - 0.1 * 0.5 / (0.5 + 1e-8).
  EXPECT_NEAR(one.step(0.5, 0.1, 0), 0.999 - 0.05 / (0.5 + 1e-8), 1e-15);
  // Second step with g = -1: m = 0.9 * 0.05 - 0.1 = -0.055, v = 0.999 * 0.00025 + 0.001;
  // m / 0.19 = -0.2894737, sqrt(v / 0.001999) = 0.7906881.
  const double first = 0.999 - 0.05 / (0.5 + 1e-8);
  const double root = std::sqrt((0.999 * 0.00025 + 0.001) / (1 - 0.999 * 0.999));
  EXPECT_NEAR(root, 0.7906881, 1e-7);
  EXPECT_NEAR(one.step(-1, 0.1, 1), first * 0.999 + 0.1 * 0.055 / 0.19 / (root + 1e-8), 1e-14);
  EXPECT_NEAR(one.step(0, 0, 2), first * 0.999 + 0.0289473684 / root, 1e-8);
}

TEST(Optimizer, SgdKnownValues) {
  OptimConfig config;
  config.type = "sgd";
  config.weight_decay = 0.1;
  Single one(config, 2.0);
  // buffer 0.5 + 0.2 = 0.7; 2 - 0.07. Then 0.63 + (-1 + 0.193) = -0.177; 1.93 + 0.0177.
  EXPECT_NEAR(one.step(0.5, 0.1, 0), 1.93, 1e-15);
  EXPECT_NEAR(one.step(-1, 0.1, 1), 1.9477, 1e-15);
}

TEST(Optimizer, LionKnownValues) {
  OptimConfig config;
  config.type = "lion";
  config.betas = {0.9, 0.99};
  config.weight_decay = 0.5;
  Single one(config, 2.0);
  // sign(0.05) = 1: 2 (1 - 0.05) - 0.1. m = 0.005. Then 0.0045 - 0.01 < 0: 1.8 * 0.95 + 0.1;
  // m = 0.00495 - 0.001 = 0.00395. A zero gradient still follows the momentum.
  EXPECT_NEAR(one.step(0.5, 0.1, 0), 1.8, 1e-15);
  EXPECT_NEAR(one.step(-0.1, 0.1, 1), 1.81, 1e-15);
  EXPECT_NEAR(*one.optimizer->state()[0].tensor.as<double>(), 0.00395, 1e-16);
  EXPECT_NEAR(one.step(0, 0.1, 2), 1.81 * 0.95 - 0.1, 1e-15);
}

TEST(Optimizer, ZeroGradientsMoveNothingButTheDecayedParameters) {
  for (std::string_view rule : optimizer_rules()) {
    OptimConfig config;
    config.type = rule;
    ParameterList parameters(DType::f32), before(DType::f32);
    build(parameters), build(before);
    const auto optimizer = make_optimizer(config, parameters);
    optimizer->step(Context(), 0.1, 0, 1);
    for (std::size_t k = 0; k < parameters.all().size(); ++k) {
      const Parameter& p = parameters.all()[k];
      const float *now = p.value.get().as<float>(), *then = before.all()[k].value.get().as<float>();
      for (std::int64_t i = 0; i < p.value.get().count(); ++i) {
        const float factor = p.decay == Decay::yes ? 0.99f : 1.0f;
        ASSERT_FLOAT_EQ(now[i], then[i] * factor) << rule << " " << p.name;
      }
    }
  }
}

TEST(Optimizer, StateIsNamedAfterParametersAndResumesBitwise) {
  for (std::string_view rule : optimizer_rules()) {
    OptimConfig config;
    config.type = rule;
    ParameterList whole(DType::f32), part(DType::f32);
    build(whole), build(part);
    const auto straight = make_optimizer(config, whole), first = make_optimizer(config, part);
    const auto second = make_optimizer(config, part);
    for (std::uint32_t step = 0; step < 6; ++step) {
      fill_gradients<float>(whole, step), fill_gradients<float>(part, step);
      straight->step(Context(), 0.01, step, 1);
      if (step == 3) {
        ASSERT_EQ(first->state().size(), second->state().size());
        for (std::size_t i = 0; i < first->state().size(); ++i) {
          EXPECT_EQ(first->state()[i].name, second->state()[i].name);
          std::memcpy(second->state()[i].tensor.data, first->state()[i].tensor.data,
                      std::size_t(first->state()[i].tensor.bytes()));
        }
      }
      (step < 3 ? first : second)->step(Context(), 0.01, step, 1);
    }
    for (std::size_t k = 0; k < whole.all().size(); ++k)
      EXPECT_EQ(0, std::memcmp(whole.all()[k].value.get().data, part.all()[k].value.get().data,
                               std::size_t(whole.all()[k].value.get().bytes())))
          << rule;
  }
  ParameterList parameters(DType::f64);
  build(parameters);
  const auto adamw = make_optimizer(OptimConfig(), parameters);
  ASSERT_EQ(adamw->state().size(), 8u);
  EXPECT_EQ(adamw->state()[1].name, "optimizer/m/norm.weight");
  EXPECT_EQ(adamw->state()[7].name, "optimizer/v/linear");
  EXPECT_EQ(adamw->state()[7].tensor.shape, (Shape{64, 48}));
  EXPECT_EQ(adamw->state_bytes(), 2 * 8 * parameters.count());
}

TEST(Optimizer, BitwiseIndependentOfThreadsAndAllocatesNothing) {
  for (std::string_view rule : optimizer_rules()) {
    OptimConfig config;
    config.type = rule;
    ParameterList one(DType::f32), many(DType::f32);
    build(one), build(many);
    const auto serial = make_optimizer(config, one), threaded = make_optimizer(config, many);
    Context ctx;
    for (std::uint32_t step = 0; step < 4; ++step) {
      fill_gradients<float>(one, step), fill_gradients<float>(many, step);
      ctx.threads = 1;
      const std::int64_t before = test::allocations();
      serial->step(ctx, 0.01, step, 0.7);
      EXPECT_EQ(test::allocations(), before) << rule;
      ctx.threads = 2 + int(step);
      threaded->step(ctx, 0.01, step, 0.7);
    }
    const Tensor a = one.values().flat(DType::f32), b = many.values().flat(DType::f32);
    EXPECT_EQ(0, std::memcmp(a.data, b.data, std::size_t(a.bytes()))) << rule;
  }
}

}  // namespace
}  // namespace quietformer
