#include "train/cuda/operations.h"

#include <cstddef>

#include "core/cuda/launch.h"
#include "core/math.h"
#include "data/windows.h"
#include "optim/step_state.h"

namespace quietformer::cuda {
namespace {

__global__ void probe_kernel() {}

__global__ void add_scaled_kernel(double* sum, const double* value, double factor) {
  sum[0] += factor * value[0];
}

constexpr int kStreams = 2;  // of a layer, RandomState::place()

__global__ void place_streams_kernel(StreamPlace* places, std::int64_t count, std::uint64_t seed,
                                     std::uint64_t step, std::uint32_t first_sample) {
  for (std::int64_t i = first_index(); i < count; i += index_step()) {
    const RandomPurpose purpose =
        i % kStreams == 0 ? RandomPurpose::attention_dropout : RandomPurpose::dropout;
    const auto layer = static_cast<std::uint32_t>(i / kStreams);
    places[i] = {stream_key(seed, purpose, layer, step), first_sample};
  }
}

__global__ void hold_diverged_kernel(float* loss_scale, const double* state, int skipped) {
  if (state[skipped] > 0) loss_scale[0] = math::kNaN<float>;
}

__global__ void mark_valid_kernel(std::uint8_t* valid, const std::int32_t* targets,
                                  std::int64_t count, std::int32_t ignored) {
  for (std::int64_t i = first_index(); i < count; i += index_step())
    valid[i] = targets[i] != ignored;
}

}  // namespace

std::string unusable(const Gpu& gpu) {
  const Device device{DeviceType::cuda, gpu.index};
  try {
    const CurrentDevice current(device);
    cudaFuncAttributes attributes{};
    const cudaError_t status = cudaFuncGetAttributes(&attributes, probe_kernel);
    if (status == cudaSuccess) return {};
    if (status == cudaErrorNoKernelImageForDevice || status == cudaErrorInvalidDeviceFunction) {
      cudaGetLastError();
      return gpu.name + " has compute capability " + std::to_string(gpu.major) + "." +
             std::to_string(gpu.minor) +
             ", this build is for " QUIETFORMER_CUDA_ARCHITECTURES
             " (QUIETFORMER_CUDA_ARCHITECTURES)";
    }
    check_cuda(status, "looking for kernels", device);
  } catch (const RunError& error) {
    return error.what();
  }
  return {};
}

void add_scaled(const Context& ctx, const Tensor& sum, const Tensor& value, double factor) {
  expect_on_device(ctx, sum, value);
  const CurrentDevice current(ctx.device);
  launch(ctx, "add_scaled", {dim3(1), dim3(1)}, add_scaled_kernel, sum.as<double>(),
         value.as<double>(), factor);
}

std::int64_t place_bytes(std::int64_t layers) {
  return layers * kStreams * static_cast<std::int64_t>(sizeof(StreamPlace));
}

void place_streams(const Context& ctx, const Tensor& places) {
  expect_on_device(ctx, places);
  const std::int64_t count = places.bytes() / static_cast<std::int64_t>(sizeof(StreamPlace));
  const CurrentDevice current(ctx.device);
  launch(ctx, "place_streams", shape_for(count), place_streams_kernel,
         static_cast<StreamPlace*>(places.data), count, ctx.random.seed, ctx.random.step,
         ctx.random.first_sample);
}

void hold_diverged(const Context& ctx, const Tensor& loss_scale, const Tensor& state) {
  expect_on_device(ctx, loss_scale, state);
  constexpr int kSkipped = offsetof(StepValues, skipped) / sizeof(double);
  const CurrentDevice current(ctx.device);
  launch(ctx, "hold_diverged", {dim3(1), dim3(1)}, hold_diverged_kernel, loss_scale.as<float>(),
         state.as<double>(), kSkipped);
}

void mark_valid(const Context& ctx, const Tensor& valid, const Tensor& targets) {
  expect_on_device(ctx, valid, targets);
  QF_EXPECTS(valid.count() == targets.count() && valid.contiguous() && targets.contiguous());
  const CurrentDevice current(ctx.device);
  launch(ctx, "mark_valid", shape_for(valid.count()), mark_valid_kernel, valid.as<std::uint8_t>(),
         targets.as<std::int32_t>(), valid.count(), kIgnoredTarget);
}

}  // namespace quietformer::cuda
