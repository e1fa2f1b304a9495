#include "core/math.h"
#include "layers/cuda/operations.h"
#include "layers/cuda/rows.cuh"

namespace quietformer::cuda {
namespace {

constexpr int kThreads = 256;        // of a row
constexpr int kTotalThreads = 1024;  // of the sum over rows
constexpr int kBatch = 8;            // elements a thread asks memory for at once

/// Elements c, c + kThreads, ... of a row; -inf beyond its end.
template <class T>
__device__ void load_batch(T (&x)[kBatch], const T* row, std::int64_t c, std::int64_t columns) {
#pragma unroll
  for (int j = 0; j < kBatch; ++j) {
    const std::int64_t i = c + j * kThreads;
    x[j] = i < columns ? row[i] : -math::kInfinity<T>;
  }
}

/// A block per row, which is read once: a thread's sum is relative to the highest element it has
/// met. ln sum exp(x) = high + log_sum, in two parts because their sum rounds off log_sum when |x|
/// is large.
template <class T>
__global__ void loss_rows_kernel(T* row_loss, T* row_lse, const T* __restrict__ logits,
                                 const std::int32_t* __restrict__ targets, std::int64_t columns) {
  constexpr T kNothing = -math::kInfinity<T>;
  const std::int64_t row = blockIdx.x;
  const T* x = logits + row * columns;
  T high = kNothing, sum = 0;
  for (std::int64_t c = threadIdx.x; c < columns; c += kBatch * kThreads) {
    T batch[kBatch];
    load_batch(batch, x, c, columns);
    T highest = high;
#pragma unroll
    for (const T value : batch) highest = Larger()(highest, value);
    if (highest == kNothing) continue;
    if (highest != high) sum *= math::exp(high - highest);  // also when highest is NaN
    high = highest;
#pragma unroll
    for (const T value : batch) sum += math::exp(value - high);
  }
  const T row_high = block_reduce<kThreads>(high, Larger());
  sum = high == kNothing ? T(0) : sum * math::exp(high - row_high);
  sum = block_reduce<kThreads>(sum, Plus());
  if (threadIdx.x != 0) return;
  const T log_sum = math::log(sum);
  const std::int64_t target = targets[row];
  row_lse[row] = row_high + log_sum;
  if (target >= columns)
    row_loss[row] = math::kNaN<T>;
  else
    row_loss[row] = target < 0 ? T(0) : row_high - x[target] + log_sum;
}

/// One block: loss[0] the mean over valid rows, loss[1] their number.
template <class T>
__global__ void __launch_bounds__(kTotalThreads)
    loss_total_kernel(double* loss, const T* __restrict__ row_loss,
                      const std::int32_t* __restrict__ targets, std::int64_t rows) {
  double sum = 0, valid = 0;
  for (std::int64_t r = threadIdx.x; r < rows; r += kTotalThreads) {
    sum += static_cast<double>(row_loss[r]);
    valid += targets[r] >= 0;
  }
  sum = block_reduce<kTotalThreads>(sum, Plus());
  valid = block_reduce<kTotalThreads>(valid, Plus());
  if (threadIdx.x != 0) return;
  loss[0] = valid > 0 ? sum / valid : 0;
  loss[1] = valid;
}

/// d_logits may alias logits: each element is read and written by one thread.
template <class T>
__global__ void loss_backward_kernel(T* d_logits, const T* logits,
                                     const std::int32_t* __restrict__ targets, const double* loss,
                                     const T* __restrict__ row_lse, double scale,
                                     std::int64_t columns) {
  const std::int64_t row = blockIdx.x, target = targets[row];
  const T factor = loss[1] > 0 ? T(scale / loss[1]) : T(0), lse = row_lse[row];
  const T* x = logits + row * columns;
  T* out = d_logits + row * columns;
  for (std::int64_t c = threadIdx.x; c < columns; c += kBatch * kThreads) {
    T batch[kBatch];
    load_batch(batch, x, c, columns);
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const std::int64_t i = c + j * kThreads;
      const T value = factor * math::exp(batch[j] - lse) - (i == target ? factor : T(0));
      if (i < columns) out[i] = target < 0 ? T(0) : value;
    }
  }
}

}  // namespace

void cross_entropy_forward(const Context& ctx, const Tensor& loss, const Tensor& row_loss,
                           const Tensor& row_lse, const Tensor& logits, const Tensor& targets) {
  expect_on_device(ctx, loss, row_loss, row_lse, logits, targets);
  const std::int64_t rows = rows_of(logits);
  const CurrentDevice current(ctx.device);
  dispatch_floating(logits.dtype, [&]<class T>() {
    if (rows > 0)
      launch(ctx, "cross_entropy_forward", {dim3(static_cast<unsigned>(rows)), dim3(kThreads)},
             loss_rows_kernel<T>, row_loss.as<T>(), row_lse.as<T>(), logits.as<T>(),
             targets.as<std::int32_t>(), columns_of(logits));
    launch(ctx, "cross_entropy_total", {dim3(1), dim3(kTotalThreads)}, loss_total_kernel<T>,
           loss.as<double>(), row_loss.as<T>(), targets.as<std::int32_t>(), rows);
  });
}

void cross_entropy_backward(const Context& ctx, const Tensor& d_logits, const Tensor& logits,
                            const Tensor& targets, const Tensor& loss, const Tensor& row_lse,
                            double scale) {
  expect_on_device(ctx, d_logits, logits, targets, loss, row_lse);
  const std::int64_t rows = rows_of(logits);
  if (rows == 0) return;
  const CurrentDevice current(ctx.device);
  dispatch_floating(logits.dtype, [&]<class T>() {
    launch(ctx, "cross_entropy_backward", {dim3(static_cast<unsigned>(rows)), dim3(kThreads)},
           loss_backward_kernel<T>, d_logits.as<T>(), logits.as<T>(), targets.as<std::int32_t>(),
           loss.as<double>(), row_lse.as<T>(), scale, columns_of(logits));
  });
}

}  // namespace quietformer::cuda
