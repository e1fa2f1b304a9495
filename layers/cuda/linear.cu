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

template <class T, int kWide>
struct Elements {
  const T* data;
  std::int64_t stride;
  __device__ void operator()(Compute<T> (&sum)[1][kWide], std::int64_t r, std::int64_t c) const {
    const T* at = data + r * stride + c;
    if constexpr (kWide == 1) {
      sum[0][0] += widen(*at);
    } else {
      const Wide<T> pack = load_pack(at);
#pragma unroll
      for (int j = 0; j < kWide; ++j) sum[0][j] += pack.value[j];
    }
  }
};

template <class T, int kWide>
void add_rows_by(const Context& ctx, const Tensor& sums, const Tensor& matrix) {
  using C = Compute<T>;
  add_column_sums<C, 1, kWide>(ctx, "linear_backward_bias", {sums.as<C>()}, matrix.shape[0],
                               matrix.shape[1],
                               Elements<T, kWide>{matrix.as<T>(), matrix.stride[0]});
}

}  // namespace

void copy_to_rows(const Context& ctx, const Tensor& y, const Tensor& bias) {
  expect_on_device(ctx, y, bias);
  if (y.count() == 0) return;
  const CurrentDevice current(ctx.device);
  dispatch_storage(y.dtype, [&]<class T>() {
    launch(ctx, "linear_bias", warp_per_row(y.shape[0]), copy_to_rows_kernel<T>, y.as<T>(),
           y.stride[0], bias.as<T>(), y.shape[0], y.shape[1]);
  });
}

void add_rows(const Context& ctx, const Tensor& sums, const Tensor& matrix) {
  expect_on_device(ctx, sums, matrix);
  const CurrentDevice current(ctx.device);
  dispatch_storage(matrix.dtype, [&]<class T>() {
    constexpr int kWide = Pack<T>::kSize;
    if (matrix.shape[1] % kWide == 0 && matrix.stride[0] % kWide == 0 &&
        starts_pack(matrix.as<T>()))
      add_rows_by<T, kWide>(ctx, sums, matrix);
    else
      add_rows_by<T, 1>(ctx, sums, matrix);
  });
}

}  // namespace quietformer::cuda
