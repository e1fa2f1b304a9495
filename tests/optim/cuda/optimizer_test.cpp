// The optimizers and the clip on a GPU against the CPU.
#include "optim/optimizer.h"

#include <limits>

#include "optim/clip.h"
#include "tests/support/tensors.h"

namespace quietformer {
namespace {

using namespace test;

constexpr Device kGpu{DeviceType::cuda, 0};

class GpuOptimizer : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string reason = cuda::unavailable(); !reason.empty()) GTEST_SKIP() << reason;
    gpu_.device = kGpu;
  }
  Context cpu_, gpu_;
};

/// Sizes that leave padding between parameters and need several pieces.
void build(ParameterList& parameters) {
  parameters.add("embedding", {101, 97}, Init::normal(0.5));
  parameters.add("norm.weight", {97}, Init::constant(1));
  parameters.add("norm.bias", {97}, Init::normal(0.1));
  parameters.add("linear", {640, 48}, Init::normal(0.5).with_tail(100, 0.5));
  parameters.commit();
  parameters.initialise(3);
}

void set_gradients(const ParameterList& parameters, std::uint32_t seed) {
  for (const Parameter& p : parameters.all()) {
    const Tensor grad = p.grad;
    const OwnedTensor host = normal(grad.dtype, grad.shape, seed++, 0.3);
    if (grad.device == kGpu)
      cuda::copy(grad, host);
    else
      std::memcpy(grad.data, host.view().data, std::size_t(grad.bytes()));
  }
}

void scale_all(const Tensor& gpu, double factor) {
  const OwnedTensor host = copy_to({}, gpu);
  for (std::int64_t i = 0; i < host.view().count(); ++i) set(host, i, get(host, i) * factor);
  cuda::copy(gpu, host);
}

TEST_F(GpuOptimizer, EveryRuleAgreesWithTheCpuAndRepeatsBitwise) {
  for (const std::string_view rule : optimizer_rules())
    for (const DType dtype : {DType::f64, DType::f32}) {
      OptimConfig config;
      config.type = rule;
      ParameterList host(dtype), there(dtype, kGpu), again(dtype, kGpu);
      build(host), build(there), build(again);
      for (std::size_t i = 0; i < host.all().size(); ++i)
        EXPECT_TRUE(same_bits(copy_to({}, there.all()[i].value), host.all()[i].value));
      const auto on_cpu = make_optimizer(config, host), on_gpu = make_optimizer(config, there),
                 repeated = make_optimizer(config, again);
      for (std::int64_t step = 0; step < 6; ++step) {
        const auto seed = static_cast<std::uint32_t>(10 * step);
        set_gradients(host, seed), set_gradients(there, seed), set_gradients(again, seed);
        on_cpu->step(cpu_, 0.01, step, 0.7);
        on_gpu->step(gpu_, 0.01, step, 0.7);
        repeated->step(gpu_, 0.01, step, 0.7);
      }
      for (std::size_t i = 0; i < host.all().size(); ++i)
        EXPECT_TRUE(close(copy_to({}, there.all()[i].value), host.all()[i].value,
                          dtype == DType::f64 ? 1e-14 : 1e-6))
            << rule;
      EXPECT_TRUE(same_bits(copy_to({}, there.values().flat(dtype)),
                            copy_to({}, again.values().flat(dtype))))
          << rule;
      ASSERT_EQ(on_gpu->state().size(), on_cpu->state().size());
      for (std::size_t i = 0; i < on_cpu->state().size(); ++i)
        EXPECT_TRUE(close(copy_to({}, on_gpu->state()[i].tensor), on_cpu->state()[i].tensor,
                          dtype == DType::f64 ? 1e-14 : 1e-6))
            << on_cpu->state()[i].name;
    }
}

TEST_F(GpuOptimizer, PaddingStaysZeroWhenTheScaleIsNot) {
  ParameterList parameters(DType::f32, kGpu);
  build(parameters);
  const auto optimizer = make_optimizer(OptimConfig(), parameters);
  set_gradients(parameters, 1);
  optimizer->step(gpu_, 0.01, 0, std::numeric_limits<double>::quiet_NaN());
  const OwnedTensor values = copy_to({}, parameters.values().flat(DType::f32));
  std::int64_t finite = 0;
  for (std::int64_t i = 0; i < values.view().count(); ++i) {
    if (std::isnan(values.as<float>()[i])) continue;
    EXPECT_EQ(values.as<float>()[i], 0.0f);
    ++finite;
  }
  EXPECT_EQ(finite, values.view().count() - parameters.count());
  EXPECT_GT(finite, 0);
}

/// Numbers in device memory do what numbers from the host do, in every storage type; values are the
/// masters rounded. Norms differ by the order of their sums: the types lie differently in memory.
TEST_F(GpuOptimizer, StepsFromDeviceMemoryAsFromTheHost) {
  for (const std::string_view rule : optimizer_rules())
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      OptimConfig config;
      config.type = rule;
      config.clip = 0.5;
      ParameterList here(DType::f32, kGpu), there(dtype, kGpu);
      build(here), build(there);
      const auto by_host = make_optimizer(config, here), by_device = make_optimizer(config, there);
      GradientClip host_clip(here, config.clip), device_clip(there, config.clip);
      StepState state(kGpu);
      for (std::int64_t step = 0; step < 4; ++step) {
        set_gradients(here, std::uint32_t(step)), set_gradients(there, std::uint32_t(step));
        const ClipResult clip = host_clip.measure(gpu_);
        by_host->step(gpu_, 0.01 / double(step + 1), step, clip.scale);
        state.begin(gpu_, 0.01 / double(step + 1), step);
        device_clip.measure(gpu_, state);
        by_device->step(gpu_, state);
        const StepValues values = state.read(gpu_);
        EXPECT_NEAR(values.norm, clip.norm, 1e-13 * clip.norm);
        EXPECT_NEAR(values.scale, clip.scale, 1e-13 * clip.scale);
        EXPECT_EQ(values.finite, 1);
        EXPECT_EQ(values.skipped, 0);
        EXPECT_EQ(values.loss_scale, 1);
      }
      for (std::size_t i = 0; i < here.all().size(); ++i) {
        const OwnedTensor master = copy_to({}, there.all()[i].master);
        EXPECT_TRUE(close(master, copy_to({}, here.all()[i].master), 1e-6)) << rule;
        EXPECT_TRUE(same_bits(copy_to({}, there.all()[i].value), copy_as(master, dtype))) << rule;
      }
    }
}

TEST_F(GpuOptimizer, GradientsThatAreNotFiniteChangeNothingButTheLossScale) {
  OptimConfig config;
  ParameterList parameters(DType::f16, kGpu), plain(DType::f32, kGpu);
  build(parameters), build(plain);
  const auto optimizer = make_optimizer(config, parameters),
             unscaled = make_optimizer(config, plain);
  GradientClip clip(parameters, config.clip), plain_clip(plain, config.clip);
  StepState state(kGpu, {1024, true, 2});
  set_gradients(parameters, 1);
  const Tensor grads = parameters.grads().flat(DType::f32);
  fill_any(grads.slice(0, 5, 1), std::numeric_limits<double>::infinity());
  const OwnedTensor masters = copy_to({}, parameters.masters().flat(DType::f32)),
                    values = copy_to({}, parameters.values().flat(DType::f16)),
                    moment = copy_to({}, optimizer->state()[0].tensor);
  state.begin(gpu_, 0.01, 0);
  clip.measure(gpu_, state);
  optimizer->step(gpu_, state);
  StepValues now = state.read(gpu_);
  EXPECT_EQ(now.finite, 0);
  EXPECT_EQ(now.skipped, 1);
  EXPECT_EQ(now.loss_scale, 512);
  EXPECT_EQ(get(copy_to({}, state.loss_scale()), 0), 512);
  EXPECT_TRUE(same_bits(copy_to({}, parameters.masters().flat(DType::f32)), masters));
  EXPECT_TRUE(same_bits(copy_to({}, parameters.values().flat(DType::f16)), values));
  EXPECT_TRUE(same_bits(copy_to({}, optimizer->state()[0].tensor), moment));
  // Two good steps with scaled gradients are those of an optimizer that never saw the first one.
  for (std::int64_t step = 0; step < 2; ++step) {
    set_gradients(plain, 7), set_gradients(parameters, 7);
    scale_all(grads, 512);
    state.begin(gpu_, 0.01, step + 1);
    clip.measure(gpu_, state);
    optimizer->step(gpu_, state);
    unscaled->step(gpu_, 0.01, step, plain_clip.measure(gpu_).scale);
  }
  for (std::size_t i = 0; i < plain.all().size(); ++i)
    EXPECT_TRUE(
        close(copy_to({}, parameters.all()[i].master), copy_to({}, plain.all()[i].master), 1e-6));
  now = state.read(gpu_);
  EXPECT_EQ(now.loss_scale, 1024);
  EXPECT_EQ(now.good_steps, 0);
  StepState restored(kGpu, {1, true, 2});
  restored.restore(now);
  EXPECT_EQ(restored.read(gpu_).skipped, 1);
  EXPECT_EQ(get(copy_to({}, restored.loss_scale()), 0), 1024);
}

TEST_F(GpuOptimizer, RefusesAnotherDevice) {
  ParameterList parameters(DType::f32, kGpu);
  build(parameters);
  EXPECT_THROW(make_optimizer(OptimConfig(), parameters)->step(cpu_, 0.01, 0, 1), std::logic_error);
  EXPECT_THROW(GradientClip(parameters, 1).measure(cpu_), std::logic_error);
}

TEST_F(GpuOptimizer, GlobalNormAgreesWithTheCpu) {
  for (const DType dtype : {DType::f64, DType::f32}) {
    ParameterList host(dtype), there(dtype, kGpu);
    build(host), build(there);
    EXPECT_EQ(GradientClip(there, 1).measure(gpu_).norm, 0);
    set_gradients(host, 1), set_gradients(there, 1);
    const ClipResult want = GradientClip(host, 0.5).measure(cpu_);
    GradientClip clip(there, 0.5);
    const ClipResult got = clip.measure(gpu_);
    EXPECT_NEAR(got.norm, want.norm, 1e-13 * want.norm);
    EXPECT_NEAR(got.scale, want.scale, 1e-13 * want.scale);
    EXPECT_EQ(clip.measure(gpu_).norm, got.norm);
    const Tensor bias = there.all()[2].grad;
    fill_any(bias.slice(0, 96, 1), std::numeric_limits<double>::infinity());
    EXPECT_FALSE(std::isfinite(clip.measure(gpu_).norm));
    EXPECT_TRUE(std::isnan(clip.measure(gpu_).scale));
  }
}

}  // namespace
}  // namespace quietformer
