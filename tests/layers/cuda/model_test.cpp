// Whole models on a GPU against the CPU: logits, loss and the gradient of every parameter.
#include <gtest/gtest.h>

#include "core/cuda/memory.h"
#include "tests/layers/model_support.h"

namespace quietformer {
namespace {

using namespace test;

constexpr Device kGpu{DeviceType::cuda, 0};

struct Variant {
  std::string name;
  ModelConfig model;
  AttentionConfig attention;
};

/// Sizes that are no multiples of anything, options that meet every path of a block.
std::vector<Variant> variants() {
  ModelConfig model;
  model.layers = 2, model.heads = 4, model.dim = 64, model.context = 37, model.vocab = 131;
  model.mlp_dim = 136;
  std::vector<Variant> list{{"pre", model, {}}};
  const auto add = [&](const std::string& name, const auto& change) {
    Variant variant{name, model, {}};
    change(variant.model, variant.attention);
    list.push_back(variant);
  };
  add("dropout", [](ModelConfig& m, AttentionConfig&) { m.dropout = 0.2; });
  add("hybrid", [](ModelConfig& m, AttentionConfig& a) {
    m.norm = "rmsnorm", m.norm_structure = "hybrid", m.position = "rotary", m.mlp = "swiglu";
    m.bias = false, m.tied = false, m.qk_norm = "rmsnorm", m.layer_scale = 0.3, m.dropout = 0.1;
    a.n = HeadParameterConfig::learned(1.5);
  });
  add("post", [](ModelConfig& m, AttentionConfig& a) {
    m.norm_structure = "post", m.position = "sinusoidal", m.mlp = "gelu_erf";
    a.normalizer = "sigmoid", a.sigmoid_bias = HeadParameterConfig::learned(-2);
  });
  add("piecewise", [](ModelConfig& m, AttentionConfig& a) {
    m.position = "rotary", m.qk_norm = "l2";
    a.score = "piecewise", a.threshold = 9, a.n = HeadParameterConfig::scheduled(0, 2, 10);
  });
  add("alibi", [](ModelConfig& m, AttentionConfig& a) {
    m.position = "none", m.kv_heads = 2;
    a.gate = "head", a.gate_bias = 0.5;
    a.alibi = true, a.score = "cosine";
  });
  const auto encoder = [](ModelConfig& m, AttentionConfig& a) {
    m.type = "bert", m.norm_structure = "post", m.deepnet = false, m.mlp = "gelu_erf";
    m.token_types = 2, m.dropout = 0.1;
    a.causal = false;
  };
  add("bert", encoder);
  add("roberta", [&](ModelConfig& m, AttentionConfig& a) {
    encoder(m, a);
    m.type = "roberta", m.token_types = 1, m.padding_token = 3, m.bias = false;
  });
  return list;
}

/// Where kernels find the random streams' places.
enum class Places { given, in_gpu_memory };

OwnedTensor places_of(const RandomState& random, std::int64_t layers) {
  OwnedTensor places(DType::u8, {2 * layers * std::int64_t{sizeof(StreamPlace)}});
  auto* place = static_cast<StreamPlace*>(places.view().data);
  for (std::uint32_t layer = 0; layer < layers; ++layer)
    for (const auto purpose : {RandomPurpose::attention_dropout, RandomPurpose::dropout})
      *place++ = {random.key(purpose, layer), random.first_sample};
  return to_device(std::move(places), kGpu);
}

struct ModelRun {
  ModelRun(const Variant& variant, DType dtype, Device device, bool one_pass,
           Places places = Places::given)
      : parameters(dtype, device),
        model(make_model(variant.model, variant.attention, parameters)),
        arena("activations", device) {
    const BatchShape shape{3, variant.model.context};
    ctx.device = device, ctx.mode = Mode::train, ctx.random = {5, 2, 7};
    if (places == Places::in_gpu_memory) {
      random_places = places_of(ctx.random, variant.model.layers);
      ctx.random = {5, 77, 1234, static_cast<const StreamPlace*>(random_places.view().data)};
    }
    if (device == kGpu) {
      stream = cuda::Stream(kGpu);
      ctx.stream = stream.get();
    }
    model->declare(ctx, arena, shape, Purpose::training);
    arena.commit();
    parameters.commit();
    parameters.initialise(3);
    std::uint32_t seed = 100;
    for (const Parameter& p : parameters.all()) {  // away from gains of 1 and biases of 0
      const Tensor master = p.master;
      const double mean = p.init.kind == Init::Kind::constant ? p.init.value : 0.0;
      const OwnedTensor value = normal(master.dtype, master.shape, seed++, 0.1, mean);
      if (device == kGpu)
        cuda::copy(master, value);
      else
        std::memcpy(master.data, value.view().data, std::size_t(master.bytes()));
    }
    parameters.update_values(ctx);
    model->set_schedule_step(ctx, 4);
    const Shape ids{shape.batch, shape.tokens};
    tokens = to_device(random_tokens(ids, variant.model.vocab, 5), device);
    OwnedTensor answers = random_tokens(ids, variant.model.vocab, 6);
    for (int i : {0, 40}) answers.as<std::int32_t>()[i] = -100;
    if (is_encoder(variant.model)) {
      OwnedTensor types = random_tokens(ids, variant.model.token_types, 7);
      OwnedTensor real(DType::u8, ids), text = random_tokens(ids, variant.model.vocab, 5);
      fill(real, 1);
      pad({text, answers, {}, real}, 1, 20, variant.model.padding_token);
      tokens = to_device(std::move(text), device);
      token_types = to_device(std::move(types), device);
      valid = to_device(std::move(real), device);
    }
    targets = to_device(std::move(answers), device);
    for (int round = 0; round < 2; ++round) {  // gradients add up
      if (one_pass) {
        model->forward_backward(ctx, batch(), {0.5, {}});
      } else {
        model->forward_loss(ctx, batch());
        model->backward(ctx, 0.5);
      }
    }
    if (device == kGpu) cuda::synchronize(ctx);
    loss = copy_to({}, model->loss());
    token_losses = copy_to({}, model->token_losses());
    for (const Parameter& p : parameters.all()) gradients.push_back(copy_to({}, p.grad));
  }

  TokenBatch batch() const { return {tokens, targets, token_types, valid}; }

  OwnedTensor random_places;
  cuda::Stream stream;
  Context ctx;
  ParameterList parameters;
  std::unique_ptr<LanguageModel> model;
  Arena arena;
  OwnedTensor tokens, targets, token_types, valid, loss, token_losses;
  std::vector<OwnedTensor> gradients;
};

class GpuModel : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string reason = cuda::unavailable(); !reason.empty()) GTEST_SKIP() << reason;
  }
};

double largest_gradient(const ModelRun& run) {
  double high = 0;
  for (const OwnedTensor& gradient : run.gradients) high = std::max(high, max_abs(gradient));
  return high;
}

TEST_F(GpuModel, AgreesWithTheCpu) {
  for (const Variant& variant : variants()) {
    const ModelRun exact(variant, DType::f64, {}, false);
    const double largest = largest_gradient(exact);
    for (const DType dtype : {DType::f64, DType::f32})
      for (const bool one_pass : {false, true}) {
        const double tolerance = dtype == DType::f64 ? 1e-11 : 1e-4;
        const ModelRun gpu(variant, dtype, kGpu, one_pass);
        EXPECT_TRUE(close(gpu.loss, exact.loss, tolerance)) << variant.name;
        EXPECT_TRUE(close(gpu.token_losses, exact.token_losses, tolerance)) << variant.name;
        for (std::size_t i = 0; i < exact.gradients.size(); ++i) {
          const Tensor want = exact.gradients[i], got = gpu.gradients[i];
          const double limit = tolerance * std::max(max_abs(want), 1e-3 * largest);
          double error = 0;
          for (std::int64_t k = 0; k < want.count(); ++k)
            error = std::max(error, std::abs(get(got, k) - get(want, k)));
          EXPECT_LE(error, limit) << variant.name << " " << exact.parameters.all()[i].name << " "
                                  << name_of(dtype);
        }
      }
  }
}

TEST_F(GpuModel, RepeatsBitwise) {
  for (const Variant& variant : variants()) {
    const ModelRun first(variant, DType::f32, kGpu, true), second(variant, DType::f32, kGpu, true);
    EXPECT_TRUE(same_bits(first.loss, second.loss)) << variant.name;
    for (std::size_t i = 0; i < first.gradients.size(); ++i)
      EXPECT_TRUE(same_bits(first.gradients[i], second.gradients[i]))
          << variant.name << " " << first.parameters.all()[i].name;
  }
}

TEST_F(GpuModel, DropoutFindsItsPlaceInGpuMemory) {
  Variant variant = variants()[1];
  variant.attention.dropout = 0.3;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const ModelRun given(variant, dtype, kGpu, true);
    const ModelRun found(variant, dtype, kGpu, true, Places::in_gpu_memory);
    EXPECT_TRUE(same_bits(found.loss, given.loss)) << name_of(dtype);
    for (std::size_t i = 0; i < given.gradients.size(); ++i)
      EXPECT_TRUE(same_bits(found.gradients[i], given.gradients[i]))
          << name_of(dtype) << " " << given.parameters.all()[i].name;
  }
}

/// Every gradient's direction and length, to the noise of 8 or 11 bits.
TEST_F(GpuModel, SixteenBitModelsAreCloseToTheCpu) {
  for (Variant variant : variants()) {
    variant.attention.implementation = "reference";
    const ModelRun exact(variant, DType::f64, {}, false);
    const double largest = largest_gradient(exact);
    for (const DType dtype : {DType::bf16, DType::f16}) {
      const double noise = dtype == DType::bf16 ? 0.05 : 0.008;
      const ModelRun gpu(variant, dtype, kGpu, true);
      EXPECT_TRUE(close(gpu.loss, exact.loss, 0.1 * noise)) << variant.name;
      for (std::size_t i = 0; i < exact.gradients.size(); ++i) {
        const Tensor want = exact.gradients[i], got = gpu.gradients[i];
        double error = 0, length = 0;
        for (std::int64_t k = 0; k < want.count(); ++k) {
          const double difference = get(got, k) - get(want, k);
          error += difference * difference, length += get(want, k) * get(want, k);
        }
        EXPECT_LE(std::sqrt(error), noise * (std::sqrt(length) + 1e-2 * largest))
            << variant.name << " " << exact.parameters.all()[i].name << " " << name_of(dtype);
      }
    }
  }
}

/// A step recorded as a graph does what it did when it was recorded, on other tokens too.
TEST_F(GpuModel, RunsAsAGraph) {
  const Variant variant = variants()[0];
  ModelRun run(variant, DType::f32, kGpu, true);
  const auto step = [&] {
    run.parameters.zero_grad(run.ctx);
    run.model->forward_backward(run.ctx, run.batch(), {1, {}});
  };
  const cuda::Graph graph(run.ctx, step);
  const auto results = [&](const auto& work, std::uint32_t seed) {
    cuda::copy(run.tokens, random_tokens(run.tokens.view().shape, variant.model.vocab, seed));
    work();
    cuda::synchronize(run.ctx);
    return copy_to({}, run.parameters.grads().flat(DType::f32));
  };
  for (const std::uint32_t seed : {11, 12}) {
    const OwnedTensor want = results(step, seed);
    EXPECT_TRUE(same_bits(results([&] { graph.launch(run.ctx); }, seed), want));
  }
}

}  // namespace
}  // namespace quietformer
