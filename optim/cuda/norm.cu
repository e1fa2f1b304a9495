#include "core/cuda/reduce.cuh"
#include "optim/cuda/operations.h"

namespace quietformer::cuda {
namespace {

constexpr int kThreads = 256;

/// A block per stretch.
template <class T>
__global__ void squares_kernel(double* partial, const T* __restrict__ values, std::int64_t count,
                               std::int64_t stretch) {
  const std::int64_t begin = blockIdx.x * stretch;
  const std::int64_t end = begin + stretch < count ? begin + stretch : count;
  double sum = 0;
#pragma unroll 8
  for (std::int64_t i = begin + threadIdx.x; i < end; i += kThreads) {
    const auto value = static_cast<double>(values[i]);
    sum += value * value;
  }
  sum = block_reduce<kThreads>(sum, Plus());
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

/// One block: partial[count] = their sum, and what follows from it.
__global__ void total_kernel(double* partial, std::int64_t count, StepValues* state, double clip) {
  double sum = 0;
#pragma unroll 4
  for (std::int64_t i = threadIdx.x; i < count; i += kThreads) sum += partial[i];
  sum = block_reduce<kThreads>(sum, Plus());
  if (threadIdx.x != 0) return;
  partial[count] = sum;
  if (state == nullptr) return;
  const double norm = sqrt(sum) / state->loss_scale;
  // The 1e-6 is torch's, as in GradientClip::measure().
  const double clipped = clip > 0 ? min(1.0, clip / (norm + 1e-6)) : 1.0;
  state->norm = norm;
  state->finite = isfinite(norm) ? 1 : 0;
  state->scale = clipped / state->loss_scale;
}

__global__ void begin_kernel(StepValues* state, double lr, double step) {
  state->lr = lr;
  state->step = step;
}

StepValues* step_values(const Tensor& state) {
  return static_cast<StepValues*>(state.data);
}

}  // namespace

void sum_of_squares(const Context& ctx, const Tensor& partial, const Tensor& values,
                    const Tensor& state, double clip) {
  expect_on_device(ctx, partial, values, state);
  QF_EXPECTS(partial.dtype == DType::f64 && partial.count() > 0 && values.contiguous());
  const std::int64_t stretches = partial.count() - 1, count = values.count();
  QF_EXPECTS(stretches > 0 || count == 0);
  const CurrentDevice current(ctx.device);
  if (count > 0)
    dispatch_floating(values.dtype, [&]<class T>() {
      launch(ctx, "sum_of_squares", {dim3(static_cast<unsigned>(stretches)), dim3(kThreads)},
             squares_kernel<T>, partial.as<double>(), values.as<T>(), count,
             (count + stretches - 1) / stretches);
    });
  launch(ctx, "sum_of_squares", {dim3(1), dim3(kThreads)}, total_kernel, partial.as<double>(),
         stretches, step_values(state), clip);
}

void begin_step(const Context& ctx, const Tensor& state, double lr, double step) {
  expect_on_device(ctx, state);
  const CurrentDevice current(ctx.device);
  launch(ctx, "begin_step", {dim3(1), dim3(1)}, begin_kernel, step_values(state), lr, step);
}

}  // namespace quietformer::cuda
