#include "attention/cuda/flash_call.h"
#include "attention/cuda/mma.cuh"
#include "attention/score/cosine.h"
#include "core/cuda/launch.h"

namespace quietformer::cuda {
namespace {

constexpr unsigned kWarps = 4, kLanes = 32;

/// Of `count` values, by a whole warp; every lane gets it.
template <class T>
__device__ float sum_of_squares(const std::uint16_t* x, int count) {
  float sum = 0;
  for (int i = threadIdx.x % kLanes; i < count; i += kLanes) {
    const float value = T::low(x[i]);
    sum += value * value;
  }
  for (unsigned step = kLanes / 2; step > 0; step /= 2)
    sum += __shfl_xor_sync(0xFFFFFFFFu, sum, step);
  return sum;
}

/// A warp per row.
template <class T>
__global__ void inverse_norms_kernel(float* out, RowTensor x, std::int64_t rows, int heads,
                                     int length, int dim) {
  const std::int64_t row = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / kLanes;
  if (row >= rows) return;
  const std::int64_t head = row / length;
  const std::uint16_t* const from = x.rows(head / heads, head % heads) + row % length * x.row;
  const float sum = sum_of_squares<T>(from, dim);
  if (threadIdx.x % kLanes == 0) out[row] = Cosine::inverse_norm(sum);
}

/// A warp per row, group after group.
template <class T>
__global__ void unit_groups_kernel(std::uint16_t* out, RowTensor x, std::int64_t rows, int heads,
                                   int length, int dim, int groups) {
  const std::int64_t row = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / kLanes;
  if (row >= rows) return;
  const std::int64_t head = row / length;
  const std::uint16_t* const from = x.rows(head / heads, head % heads) + row % length * x.row;
  const int size = dim / groups;
  for (int group = 0; group < groups; ++group) {
    const std::uint16_t* const slice = from + group * size;
    const float inverse = Cosine::inverse_norm(sum_of_squares<T>(slice, size));
    for (int i = threadIdx.x % kLanes; i < size; i += kLanes)
      out[row * dim + group * size + i] =
          static_cast<std::uint16_t>(T::pack(T::low(slice[i]) * inverse, 0));
  }
}

/// Rows of dx hold dy of y = x / |x| and become dx = (dy - y (y.dy)) / |x|, group after group. A
/// warp per row.
template <class T>
__global__ void unit_groups_backward_kernel(RowTensor dx, RowTensor x, std::int64_t rows, int heads,
                                            int length, int dim, int groups) {
  const std::int64_t row = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / kLanes;
  if (row >= rows) return;
  const std::int64_t head = row / length;
  const std::uint16_t* const from = x.rows(head / heads, head % heads) + row % length * x.row;
  std::uint16_t* const to = dx.rows(head / heads, head % heads) + row % length * dx.row;
  const int size = dim / groups;
  for (int group = 0; group < groups; ++group) {
    const std::uint16_t* const slice = from + group * size;
    std::uint16_t* const gradient = to + group * size;
    float product = 0;
    for (int i = threadIdx.x % kLanes; i < size; i += kLanes)
      product += T::low(slice[i]) * T::low(gradient[i]);
    for (unsigned step = kLanes / 2; step > 0; step /= 2)
      product += __shfl_xor_sync(0xFFFFFFFFu, product, step);
    const float squares = sum_of_squares<T>(slice, size), inverse = Cosine::inverse_norm(squares),
                projection = Cosine::projection(product * inverse, squares) * inverse;
    for (int i = threadIdx.x % kLanes; i < size; i += kLanes)
      gradient[i] = static_cast<std::uint16_t>(
          T::pack((T::low(gradient[i]) - T::low(slice[i]) * projection) * inverse, 0));
  }
}

LaunchShape shape_for_rows(std::int64_t rows) {
  return {dim3(static_cast<unsigned>((rows + kWarps - 1) / kWarps)), dim3(kWarps * kLanes)};
}

std::int64_t rows_of(const Tensor& x) {
  return x.shape[0] * x.shape[1] * x.shape[2];
}

}  // namespace

void inverse_norms(const Context& ctx, float* out, const Tensor& x) {
  const CurrentDevice current(ctx.device);
  const std::int64_t rows = rows_of(x);
  if (rows == 0) return;
  launch(ctx, "inverse norms", shape_for_rows(rows),
         x.dtype == DType::bf16 ? inverse_norms_kernel<Bf16> : inverse_norms_kernel<F16>, out,
         RowTensor(x), rows, static_cast<int>(x.shape[1]), static_cast<int>(x.shape[2]),
         static_cast<int>(x.shape[3]));
}

void unit_groups(const Context& ctx, const Tensor& out, const Tensor& x, int groups) {
  const CurrentDevice current(ctx.device);
  const std::int64_t rows = rows_of(x);
  if (rows == 0) return;
  launch(ctx, "unit groups", shape_for_rows(rows),
         x.dtype == DType::bf16 ? unit_groups_kernel<Bf16> : unit_groups_kernel<F16>,
         static_cast<std::uint16_t*>(out.data), RowTensor(x), rows, static_cast<int>(x.shape[1]),
         static_cast<int>(x.shape[2]), static_cast<int>(x.shape[3]), groups);
}

void unit_groups_backward(const Context& ctx, const Tensor& dx, const Tensor& x, int groups) {
  const CurrentDevice current(ctx.device);
  const std::int64_t rows = rows_of(x);
  if (rows == 0 || !dx) return;
  launch(
      ctx, "unit groups backward", shape_for_rows(rows),
      x.dtype == DType::bf16 ? unit_groups_backward_kernel<Bf16> : unit_groups_backward_kernel<F16>,
      RowTensor(dx), RowTensor(x), rows, static_cast<int>(x.shape[1]), static_cast<int>(x.shape[2]),
      static_cast<int>(x.shape[3]), groups);
}

}  // namespace quietformer::cuda
