#include "layers/cuda/operations.h"
#include "layers/cuda/rows.cuh"

namespace quietformer::cuda {
namespace {

template <class T>
__global__ void copy_to_rows_kernel(T* y, std::int64_t stride, const T* __restrict__ bias,
                                    std::int64_t rows, std::int64_t columns) {
  const std::int64_t row = row_of_warp();
  if (row >= rows) return;
  for (std::int64_t c = lane(); c < columns; c += kWarp) y[row * stride + c] = bias[c];
}

template <class T>
struct Element {
  const T* data;
  std::int64_t stride;
  __device__ void operator()(T (&sum)[1], std::int64_t r, std::int64_t c) const {
    sum[0] += data[r * stride + c];
  }
};

}  // namespace

void copy_to_rows(const Context& ctx, const Tensor& y, const Tensor& bias) {
  expect_on_device(ctx, y, bias);
  if (y.count() == 0) return;
  const CurrentDevice current(ctx.device);
  dispatch_floating(y.dtype, [&]<class T>() {
    launch(ctx, "linear_bias", warp_per_row(y.shape[0]), copy_to_rows_kernel<T>, y.as<T>(),
           y.stride[0], bias.as<T>(), y.shape[0], y.shape[1]);
  });
}

void add_rows(const Context& ctx, const Tensor& sums, const Tensor& matrix) {
  expect_on_device(ctx, sums, matrix);
  const CurrentDevice current(ctx.device);
  dispatch_floating(matrix.dtype, [&]<class T>() {
    add_column_sums<T, 1>(ctx, "linear_backward_bias", {sums.as<T>()}, matrix.shape[0],
                          matrix.shape[1], Element<T>{matrix.as<T>(), matrix.stride[0]});
  });
}

}  // namespace quietformer::cuda
