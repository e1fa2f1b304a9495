// What the model promises besides its gradient.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

#include "tests/layers/model_support.h"

namespace quietformer {
namespace {

using namespace test;

std::int64_t count_parameters(const ModelConfig& model) {
  ParameterList parameters(DType::f32);
  const auto gpt = make_model(model, {}, parameters);
  parameters.commit();
  return parameters.count();
}

// The ancestor's byte model (semantics.md 6.1): no biases in linear layers, norms with theirs.
TEST(Gpt, CosineByteModelHasTheAncestorsParameterCount) {
  ModelConfig model;  // 8 layers, 8 heads, 512, context 1024, bytes, learned positions
  model.bias = false;
  model.tied = false;
  EXPECT_EQ(count_parameters(model), 25'969'664);
}

std::vector<std::string> names_of(const ModelConfig& model, const AttentionConfig& attention) {
  ParameterList parameters(DType::f32);
  const auto gpt = make_model(model, attention, parameters);
  std::vector<std::string> names;
  for (const Parameter& p : parameters.all()) names.push_back(p.name);
  return names;
}

TEST(Gpt, ParameterNamesAreTheCheckpointsContract) {
  ModelConfig model = tiny_model();
  model.layers = 1;
  EXPECT_EQ(
      names_of(model, {}),
      (std::vector<std::string>{
          "token_embedding.weight", "position_embedding.weight", "blocks.0.norm1.weight",
          "blocks.0.norm1.bias", "blocks.0.attention.qkv.weight", "blocks.0.attention.qkv.bias",
          "blocks.0.attention.out.weight", "blocks.0.attention.out.bias", "blocks.0.norm2.weight",
          "blocks.0.norm2.bias", "blocks.0.mlp.up.weight", "blocks.0.mlp.up.bias",
          "blocks.0.mlp.down.weight", "blocks.0.mlp.down.bias", "norm.weight", "norm.bias"}));
  model.norm = "rmsnorm", model.norm_structure = "hybrid", model.position = "rotary";
  model.bias = false, model.tied = false, model.qk_norm = "rmsnorm", model.mlp = "swiglu";
  model.layer_scale = 0.1;
  AttentionConfig attention;
  attention.n = HeadParameterConfig::learned(1);
  EXPECT_EQ(
      names_of(model, attention),
      (std::vector<std::string>{
          "token_embedding.weight", "blocks.0.norm1.weight", "blocks.0.norm1_post.weight",
          "blocks.0.layer_scale1.weight", "blocks.0.attention.qkv.weight",
          "blocks.0.attention.q_norm.weight", "blocks.0.attention.k_norm.weight",
          "blocks.0.attention.sink_logit", "blocks.0.attention.out.weight", "blocks.0.norm2.weight",
          "blocks.0.norm2_post.weight", "blocks.0.layer_scale2.weight", "blocks.0.mlp.up.weight",
          "blocks.0.mlp.gate.weight", "blocks.0.mlp.down.weight", "norm.weight", "head.weight"}));
  attention.normalizer = "sigmoid";
  attention.sigmoid_bias = HeadParameterConfig::learned(-3);
  attention.gate = "head";
  model.norm_structure = "post";
  const std::vector<std::string> names = names_of(model, attention);
  const std::set<std::string> known(names.begin(), names.end());
  EXPECT_EQ(known.count("blocks.0.attention.sigmoid_bias"), 1u);
  EXPECT_EQ(known.count("blocks.0.attention.sink_logit"), 0u);
  EXPECT_EQ(known.count("blocks.0.attention.gate.weight"), 1u);
  EXPECT_EQ(known.count("blocks.0.attention.gate.bias"), 1u);
  EXPECT_EQ(known.count("norm.weight"), 0u);  // post: the last block ends in a norm
}

double standard_deviation(const Tensor& t, std::int64_t begin, std::int64_t end) {
  double sum = 0, squares = 0;
  for (std::int64_t i = begin; i < end; ++i) sum += get(t, i), squares += get(t, i) * get(t, i);
  const double n = double(end - begin);
  return std::sqrt(squares / n - sum / n * sum / n);
}

TEST(Gpt, InitialScales) {
  ModelConfig model = tiny_model();
  model.layers = 4, model.dim = 64, model.mlp_dim = 256, model.heads = 4;
  for (const char* structure : {"pre", "post"}) {
    model.norm_structure = structure;
    TestGpt gpt(model, {}, DType::f32, {1, 4});
    const auto deviation = [&](const char* name, double from, double to) {
      const Tensor t = gpt.parameters.find(name)->value;
      const auto at = [&](double part) { return std::int64_t(part * double(t.count())); };
      return standard_deviation(t, at(from), at(to));
    };
    const bool post = std::string(structure) == "post";
    const double beta = std::pow(8.0 * 4, -0.25), xavier = std::sqrt(2.0 / 128);
    const double thin = std::sqrt(2.0 / (64 + 256));
    EXPECT_NEAR(deviation("blocks.0.attention.qkv.weight", 0, 2.0 / 3) / (post ? xavier : 0.02), 1,
                0.03);
    EXPECT_NEAR(
        deviation("blocks.0.attention.qkv.weight", 2.0 / 3, 1) / (post ? beta * xavier : 0.02), 1,
        0.03);
    EXPECT_NEAR(deviation("blocks.1.attention.out.weight", 0, 1) /
                    (post ? beta * xavier : 0.02 / std::sqrt(8.0)),
                1, 0.03);
    EXPECT_NEAR(deviation("blocks.2.mlp.up.weight", 0, 1) / (post ? beta * thin : 0.02), 1, 0.03);
    EXPECT_NEAR(
        deviation("blocks.3.mlp.down.weight", 0, 1) / (post ? beta * thin : 0.02 / std::sqrt(8.0)),
        1, 0.03);
    EXPECT_NEAR(deviation("token_embedding.weight", 0, 1), 0.02, 0.002);
  }
}

TEST(Gpt, AFreshModelPredictsNearlyUniformly) {
  for (const char* position : {"learned", "sinusoidal", "rotary", "none"}) {
    ModelConfig model = tiny_model();
    model.position = position;
    TestGpt gpt(model, {}, DType::f32, {2, 7});
    EXPECT_NEAR(gpt.loss(), std::log(11.0), 0.05) << position;
  }
}

std::vector<std::pair<ModelConfig, AttentionConfig>> variants() {
  std::vector<std::pair<ModelConfig, AttentionConfig>> all;
  for (const char* score : {"dot", "cosine", "piecewise"})
    for (const NormalizerInfo& normalizer : normalizers()) {
      ModelConfig model = tiny_model();
      AttentionConfig attention;
      attention.score = score;
      attention.normalizer = normalizer.name;
      attention.threshold = 2;
      model.position = "rotary";
      model.norm_structure = all.size() % 3 == 0 ? "pre" : all.size() % 3 == 1 ? "post" : "hybrid";
      all.emplace_back(model, attention);
    }
  return all;
}

TEST(Gpt, FutureTokensLeavePastLogitsBitEqual) {
  for (const auto& [model, attention] : variants()) {
    TestGpt gpt(model, attention, DType::f32, {2, 7});
    scatter(gpt.parameters, 0.3);
    const OwnedTensor before = copy_of(gpt.gpt.forward(gpt.ctx, {gpt.tokens}));
    for (std::int64_t t = 6; t > 0; --t) {
      std::int32_t& token = gpt.tokens.as<std::int32_t>()[t];  // of the first sequence
      token = static_cast<std::int32_t>((token + 1) % model.vocab);
      const Tensor after = gpt.gpt.forward(gpt.ctx, {gpt.tokens});
      EXPECT_TRUE(same_bits(after.slice(0, 0, 1).slice(1, 0, t),
                            before.view().slice(0, 0, 1).slice(1, 0, t)));
      EXPECT_FALSE(same_bits(after.slice(0, 0, 1).slice(1, t, 1),
                             before.view().slice(0, 0, 1).slice(1, t, 1)));
      EXPECT_TRUE(same_bits(after.slice(0, 1, 1), before.view().slice(0, 1, 1)));
    }
  }
}

TEST(Gpt, SmallerBatchesAndTheLastRowAlone) {
  for (const auto& [model, attention] : variants()) {
    TestGpt large(model, attention, DType::f32, {3, 7}, Purpose::inference);
    scatter(large.parameters, 0.3);
    const OwnedTensor whole = copy_of(large.gpt.forward(large.ctx, {large.tokens}));
    for (const std::int64_t tokens : {1, 4, 7}) {
      const OwnedTensor part = copy_of(large.tokens.view().slice(0, 1, 2).slice(1, 0, tokens));
      const OwnedTensor logits = copy_of(large.gpt.forward(large.ctx, {part}));
      EXPECT_EQ(logits.view().shape, (Shape{2, tokens, model.vocab}));
      EXPECT_TRUE(close(logits, copy_of(whole.view().slice(0, 1, 2).slice(1, 0, tokens)), 1e-5));
      const Tensor last = large.gpt.forward(large.ctx, {part}, LogitRows::last);
      EXPECT_EQ(last.shape, (Shape{2, 1, model.vocab}));
      EXPECT_TRUE(close(last, copy_of(logits.view().slice(1, tokens - 1, 1)), 1e-5));
    }
    EXPECT_THROW(large.gpt.forward(large.ctx, {OwnedTensor(DType::i32, {3, 8})}), std::logic_error);
    EXPECT_THROW(large.gpt.forward(large.ctx, {OwnedTensor(DType::i32, {4, 1})}), std::logic_error);
  }
}

TEST(Gpt, InferenceComputesWhatTrainingDoesInLessMemory) {
  ModelConfig model = tiny_model();
  model.layers = 6;
  for (const char* structure : {"pre", "post", "hybrid"}) {
    model.norm_structure = structure;
    model.layer_scale = 0.4;
    TestGpt training(model, {}, DType::f32, {2, 7}),
        inference(model, {}, DType::f32, {2, 7}, Purpose::inference);
    scatter(training.parameters, 0.3), scatter(inference.parameters, 0.3);
    EXPECT_EQ(training.loss(), inference.loss());
    EXPECT_LT(inference.arena.bytes() * 2, training.arena.bytes());
    EXPECT_THROW(inference.gpt.backward(inference.ctx), std::logic_error);
  }
}

TEST(Gpt, ABlockAddsItsSavedTensorsAndNoGradients) {
  const auto bytes = [](std::int64_t layers) {
    ModelConfig model = tiny_model();
    model.layers = layers, model.context = 16;
    model.dim = 32, model.mlp_dim = 64;  // every tensor fills whole 64-byte units
    return TestGpt(model, {}, DType::f32, {2, 16}).arena.bytes();
  };
  const std::int64_t rows = 32, dim = 32, mlp_dim = 64, heads = 2;
  // normed twice, q, k, v, context, the stream after either branch; up and active; means and
  // reciprocal deviations; the attention's row state.
  const std::int64_t block = rows * (8 * dim + 2 * mlp_dim + 4 + heads) * 4;
  EXPECT_EQ(bytes(3) - bytes(2), block);
  EXPECT_EQ(bytes(7) - bytes(3), 4 * block);
}

/// Loss and all gradients of one step on `tokens`, weighted.
void run_step(TestGpt& gpt, const Tensor& tokens, const Tensor& targets, double weight) {
  gpt.gpt.forward_loss(gpt.ctx, {tokens, targets});
  gpt.gpt.backward(gpt.ctx, weight);
}

ModelConfig dropping_model() {
  ModelConfig model = tiny_model();
  model.dropout = 0.3;
  return model;
}

TEST(Gpt, TrainsInOneCallAsInTwo) {
  TestGpt two(dropping_model(), {}, DType::f32, {4, 6}),
      one(dropping_model(), {}, DType::f32, {4, 6});
  for (TestGpt* gpt : {&two, &one}) {
    scatter(gpt->parameters, 0.3);
    gpt->ctx.mode = Mode::train;
  }
  run_step(two, two.tokens, two.targets, 0.25);
  one.gpt.forward_backward(one.ctx, {one.tokens, one.targets}, {0.25, {}});
  EXPECT_TRUE(same_bits(one.gpt.loss(), two.gpt.loss()));
  EXPECT_TRUE(
      same_bits(one.parameters.grads().flat(DType::f32), two.parameters.grads().flat(DType::f32)));
}

TEST(Gpt, SixteenBitParametersNeedAGpu) {
  for (const DType dtype : {DType::bf16, DType::f16}) try {
      const ParameterList parameters(dtype);
      FAIL();
    } catch (const InputError& error) {
      EXPECT_EQ(error.what(), std::string(name_of(dtype)) +
                                  " parameters: found the CPU, which computes in f32 and f64; "
                                  "expected a GPU");
    }
}

TEST(Gpt, MicroBatchesAddUpToTheWholeBatchDropoutIncluded) {
  AttentionConfig attention;
  attention.dropout = 0.3;
  TestGpt whole(dropping_model(), attention, DType::f64, {4, 6}),
      parts(dropping_model(), attention, DType::f64, {4, 6});
  for (TestGpt* gpt : {&whole, &parts}) {
    scatter(gpt->parameters, 0.3);
    gpt->parameters.zero_grad();
    gpt->ctx.mode = Mode::train;
    gpt->ctx.random = {3, 17, 0};
  }
  run_step(whole, whole.tokens, whole.targets, 1);
  for (const std::uint32_t first : {0u, 1u}) {
    parts.ctx.random.first_sample = first == 0 ? 0 : 1;
    const std::int64_t size = first == 0 ? 1 : 3;
    run_step(parts, parts.tokens.view().slice(0, first, size),
             parts.targets.view().slice(0, first, size), double(size) / 4);
  }
  for (std::size_t i = 0; i < whole.parameters.all().size(); ++i)
    EXPECT_TRUE(
        close(parts.parameters.all()[i].grad.get(), whole.parameters.all()[i].grad.get(), 1e-11))
        << whole.parameters.all()[i].name;

  // Other decisions give other gradients, and evaluation gives none of them.
  const double dropped = whole.loss();
  whole.ctx.random.step = 18;
  EXPECT_NE(whole.loss(), dropped);
  whole.ctx.mode = Mode::evaluate;
  const double plain = whole.loss();
  whole.ctx.random.step = 19;
  EXPECT_EQ(whole.loss(), plain);
}

TEST(Gpt, BitwiseIndependentOfThreads) {
  ModelConfig model = dropping_model();
  model.dim = 48, model.mlp_dim = 96, model.context = 64, model.vocab = 300, model.heads = 4;
  model.qk_norm = "rmsnorm";
  AttentionConfig attention;
  attention.dropout = 0.1;
  attention.n = HeadParameterConfig::learned(1);
  const auto run = [&](int threads) {
    auto gpt = std::make_unique<TestGpt>(model, attention, DType::f32, BatchShape{6, 64},
                                         Purpose::training, threads);
    gpt->ctx.mode = Mode::train;
    run_step(*gpt, gpt->tokens, gpt->targets, 1);
    return gpt;
  };
  const auto one = run(1);
  for (const int threads : {2, 5}) {
    const auto many = run(threads);
    EXPECT_TRUE(same_bits(one->gpt.loss(), many->gpt.loss()));
    EXPECT_TRUE(same_bits(one->parameters.grads().flat(DType::f32),
                          many->parameters.grads().flat(DType::f32)));
  }
}

TEST(Gpt, SinglePrecisionAgreesWithDouble) {
  for (const auto& [model, attention] : variants()) {
    TestGpt single(model, attention, DType::f32, {3, 7}),
        exact(model, attention, DType::f64, {3, 7});
    for (TestGpt* gpt : {&single, &exact}) {
      scatter(gpt->parameters, 0.3);
      run_step(*gpt, gpt->tokens, gpt->targets, 1);
    }
    EXPECT_NEAR(get(single.gpt.loss(), 0), get(exact.gpt.loss(), 0), 1e-5);
    for (std::size_t i = 0; i < single.parameters.all().size(); ++i)
      EXPECT_TRUE(
          close(single.parameters.all()[i].grad.get(), exact.parameters.all()[i].grad.get(), 1e-4))
          << model.norm_structure << attention.score << single.parameters.all()[i].name;
  }
}

TEST(Gpt, LossCountsValidTargetsAndKeepsEveryTokens) {
  TestGpt gpt(tiny_model(), {}, DType::f64, {2, 7});
  fill(gpt.targets.view().slice(0, 0, 1), -100);
  const double mean = gpt.loss();
  EXPECT_EQ(get(gpt.gpt.loss(), 1), 7);
  const Tensor tokens = gpt.gpt.token_losses();
  EXPECT_EQ(tokens.shape, (Shape{2, 7}));
  double sum = 0;
  for (int i = 0; i < 14; ++i) sum += get(tokens, i);
  EXPECT_NEAR(sum / 7, mean, 1e-13);
  EXPECT_EQ(get(tokens, 3), 0);
}

TEST(Gpt, ScheduledNMovesLinearlyAndStops) {
  AttentionConfig scheduled, fixed;
  scheduled.n = HeadParameterConfig::scheduled(0.5, 2.5, 10);
  TestGpt moving(tiny_model(), scheduled, DType::f64, {2, 7});
  scatter(moving.parameters, 0.3);
  const std::pair<std::int64_t, double> points[] = {{0, 0.5}, {5, 1.5}, {10, 2.5}, {99, 2.5}};
  for (const auto& [step, n] : points) {
    fixed.n = HeadParameterConfig::fixed(n);
    TestGpt still(tiny_model(), fixed, DType::f64, {2, 7});
    scatter(still.parameters, 0.3);
    moving.gpt.set_schedule_step(step);
    EXPECT_EQ(moving.loss(), still.loss()) << step;
  }
}

TEST(Gpt, LearnedParametersStartWhereTheFixedOnesAre) {
  AttentionConfig learned, fixed;
  learned.n = HeadParameterConfig::learned(0.3);
  fixed.n = HeadParameterConfig::fixed(0.3);
  TestGpt a(tiny_model(), learned, DType::f64, {2, 7}), b(tiny_model(), fixed, DType::f64, {2, 7});
  EXPECT_NEAR(a.loss(), b.loss(), 1e-14);
  EXPECT_EQ(a.parameters.find("blocks.0.attention.sink_logit")->decay, Decay::no);

  learned = fixed = {};
  learned.normalizer = fixed.normalizer = "sigmoid";
  learned.sigmoid_bias = HeadParameterConfig::learned(-std::log(7.0));  // fixed: -ln(context)
  TestGpt c(tiny_model(), learned, DType::f64, {2, 7}), d(tiny_model(), fixed, DType::f64, {2, 7});
  EXPECT_NEAR(c.loss(), d.loss(), 1e-14);
  fixed.sigmoid_bias = HeadParameterConfig::per_head({-1, -3});
  EXPECT_NE(TestGpt(tiny_model(), fixed, DType::f64, {2, 7}).loss(), d.loss());

  AttentionConfig clipped, softmax;
  clipped.normalizer = "clipped_softmax";
  clipped.gamma = HeadParameterConfig::over_context(-0.7);  // tiny_model's context is 7
  TestGpt part(tiny_model(), clipped, DType::f64, {2, 7});
  clipped.gamma = HeadParameterConfig::fixed(-0.1);
  EXPECT_EQ(TestGpt(tiny_model(), clipped, DType::f64, {2, 7}).loss(), part.loss());
  clipped.gamma = HeadParameterConfig::fixed(0);
  softmax.n = HeadParameterConfig::fixed(0);
  TestGpt unclipped(tiny_model(), clipped, DType::f64, {2, 7});
  EXPECT_NEAR(TestGpt(tiny_model(), softmax, DType::f64, {2, 7}).loss(), unclipped.loss(), 1e-14);
  EXPECT_NE(part.loss(), unclipped.loss());
}

/// Keeps a copy of everything, or of nothing but what it says it wants.
struct Probe : ProbeSink {
  std::set<std::string> refused;
  std::map<std::string, OwnedTensor> seen;
  void record(const Context&, std::string_view name, const Tensor& value) override {
    EXPECT_EQ(seen.count(std::string(name)), 0u) << name;  // once per forward
    seen[std::string(name)] = copy_of(value);
  }
  bool wants(std::string_view name) const override { return refused.count(std::string(name)) == 0; }
};

TEST(Gpt, ProbesSeeEverySiteOnce) {
  TestGpt gpt(tiny_model(), {}, DType::f64, {2, 7});
  Probe probe;
  gpt.ctx.probes = &probe;
  gpt.loss();
  gpt.gpt.backward(gpt.ctx);
  std::vector<std::string> expected{"embedding"};
  for (const char* block : {"blocks.0.", "blocks.1."})
    for (const char* site : {"attention.context", "attention.output", "attention.row_sum",
                             "attention.sink_mass", "mlp.output", "output"})
      expected.push_back(std::string(block) + site);
  std::vector<std::string> names;
  for (const auto& [name, value] : probe.seen) names.push_back(name);
  std::sort(expected.begin(), expected.end());
  EXPECT_EQ(names, expected);
  EXPECT_EQ(probe.seen["embedding"].view().shape, (Shape{2, 7, 8}));
  EXPECT_EQ(probe.seen["blocks.1.attention.context"].view().shape, (Shape{2, 7, 8}));
  const Tensor sink = probe.seen["blocks.1.attention.sink_mass"];
  const Tensor sum = probe.seen["blocks.1.attention.row_sum"];
  EXPECT_EQ(sink.shape, (Shape{2, 2, 7}));
  for (int i = 0; i < 28; ++i) {
    EXPECT_NEAR(get(sink, i) + get(sum, i), 1, 1e-12);
    EXPECT_GT(get(sink, i), 0.05);  // n = 1 against at most 7 keys
  }

  AttentionConfig sigmoid;  // has no sink
  sigmoid.normalizer = "sigmoid";
  TestGpt other(tiny_model(), sigmoid, DType::f64, {2, 7});
  Probe second;
  second.refused = {"blocks.0.output"};
  other.ctx.probes = &second;
  other.loss();
  EXPECT_EQ(second.seen.count("blocks.0.attention.sink_mass"), 0u);
  EXPECT_EQ(second.seen.count("blocks.0.attention.row_sum"), 1u);
  EXPECT_EQ(second.seen.count("blocks.0.output"), 0u);
}

TEST(Gpt, ImpossibleConfigurationsAreRefusedBeforeAnythingIsRegistered) {
  ModelConfig model = tiny_model();
  model.heads = 3;
  ParameterList parameters(DType::f32);
  EXPECT_THROW(make_model(model, {}, parameters), InputError);
  EXPECT_TRUE(parameters.all().empty());
}

TEST(Gpt, PlainGradientDescentLearns) {
  TestGpt gpt(tiny_model(), {}, DType::f32, {2, 7});
  const double before = gpt.loss();
  for (int step = 0; step < 200; ++step) {
    gpt.parameters.zero_grad();
    run_step(gpt, gpt.tokens, gpt.targets, 1);
    const Tensor values = gpt.parameters.values().flat(DType::f32),
                 grads = gpt.parameters.grads().flat(DType::f32);
    for (std::int64_t i = 0; i < values.count(); ++i)
      values.as<float>()[i] -= 0.5f * grads.as<float>()[i];
  }
  EXPECT_LT(gpt.loss(), 0.2 * before);
}

}  // namespace
}  // namespace quietformer
