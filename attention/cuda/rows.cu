#include "attention/cuda/rows.h"

#include "attention/cuda/row_problem.h"
#include "attention/score/cosine.h"
#include "core/cuda/reduce.cuh"
#include "core/cuda/storage.cuh"

namespace quietformer::cuda {
namespace {

constexpr unsigned kWarps = 8;

/// Where the rows of a tensor are, whatever the type of its elements.
template <class T>
struct StridedRows {
  MatrixView<T> view;
  std::int64_t heads, length;

  explicit StridedRows(const Tensor& t) : heads(t.shape[1]), length(t.shape[2]) {
    view.data = static_cast<T*>(t.data);
    view.batch = t.stride[0], view.head = t.stride[1], view.row = t.stride[2];
  }
  __device__ T* operator[](std::int64_t row) const {
    const std::int64_t head = row / length;
    return view.at(head / heads, head % heads, row % length);
  }
};

std::int64_t rows_of(const Tensor& t) {
  QF_EXPECTS(t.shape.rank == 4);
  return t.shape[0] * t.shape[1] * t.shape[2];
}

LaunchShape warps_for(std::int64_t rows) {
  return shape_for(rows * kWarp, kWarps * kWarp, 1u << 20);
}
__device__ std::int64_t first_warp() {
  return std::int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
}
__device__ std::int64_t warp_step() {
  return std::int64_t{gridDim.x} * kWarps;
}
__device__ std::int64_t lane() {
  return threadIdx.x % kWarp;
}

template <class To, class From>
__global__ void convert_kernel(StridedRows<To> to, StridedRows<const From> from, std::int64_t rows,
                               std::int64_t features) {
  for (std::int64_t row = first_warp(); row < rows; row += warp_step())
    for (std::int64_t c = lane(); c < features; c += kWarp)
      to[row][c] = narrow<To>(widen(from[row][c]));
}

template <class T>
__global__ void zero_kernel(StridedRows<T> to, std::int64_t rows, std::int64_t features) {
  for (std::int64_t row = first_warp(); row < rows; row += warp_step())
    for (std::int64_t c = lane(); c < features; c += kWarp) to[row][c] = T(0);
}

template <class T>
__device__ double warp_dot(const T* a, const T* b, std::int64_t count) {
  double sum = 0;
  for (std::int64_t c = lane(); c < count; c += kWarp)
    sum += static_cast<double>(a[c]) * static_cast<double>(b[c]);
  return warp_reduce(sum, Plus());
}

template <class T>
__global__ void l2norm_kernel(StridedRows<T> out, StridedRows<const T> x, std::int64_t rows,
                              std::int64_t width, int groups) {
  for (std::int64_t row = first_warp(); row < rows; row += warp_step())
    for (int g = 0; g < groups; ++g) {
      const T* const from = x[row] + g * width;
      T* const to = out[row] + g * width;
      const double inverse = Cosine::inverse_norm(warp_dot(from, from, width));
      for (std::int64_t c = lane(); c < width; c += kWarp)
        to[c] = static_cast<T>(static_cast<double>(from[c]) * inverse);
    }
}

template <class T>
__global__ void l2norm_backward_kernel(StridedRows<T> d_x, StridedRows<const T> d_out,
                                       StridedRows<const T> x, std::int64_t rows,
                                       std::int64_t width, int groups) {
  for (std::int64_t row = first_warp(); row < rows; row += warp_step())
    for (int g = 0; g < groups; ++g) {
      const T *const from = x[row] + g * width, *const gradient = d_out[row] + g * width;
      T* const to = d_x[row] + g * width;
      const double squares = warp_dot(from, from, width);
      const double inverse = Cosine::inverse_norm(squares);
      const double y_dot_dy = warp_dot(from, gradient, width) * inverse;
      const double projection = Cosine::projection(y_dot_dy, squares) * inverse;
      for (std::int64_t c = lane(); c < width; c += kWarp)
        to[c] = static_cast<T>(
            (static_cast<double>(gradient[c]) - static_cast<double>(from[c]) * projection) *
            inverse);
    }
}

}  // namespace

void convert_rows(const Context& ctx, const Tensor& to, const Tensor& from) {
  QF_EXPECTS(to.shape == from.shape);
  const std::int64_t rows = rows_of(to);
  if (to.count() == 0) return;
  const CurrentDevice current(ctx.device);
  dispatch_storage(to.dtype, [&]<class To>() {
    dispatch_storage(from.dtype, [&]<class From>() {
      launch(ctx, "converting rows", warps_for(rows), convert_kernel<To, From>, StridedRows<To>(to),
             StridedRows<const From>(from), rows, to.shape[3]);
    });
  });
}

void zero_rows(const Context& ctx, const Tensor& to) {
  const std::int64_t rows = rows_of(to);
  if (to.count() == 0) return;
  const CurrentDevice current(ctx.device);
  dispatch_storage(to.dtype, [&]<class T>() {
    launch(ctx, "zeroing rows", warps_for(rows), zero_kernel<T>, StridedRows<T>(to), rows,
           to.shape[3]);
  });
}

void l2norm_rows(const Context& ctx, const Tensor& out, const Tensor& x, int groups) {
  const std::int64_t rows = rows_of(x);
  if (x.count() == 0) return;
  const CurrentDevice current(ctx.device);
  dispatch_floating(x.dtype, [&]<class T>() {
    launch(ctx, "l2 norm", warps_for(rows), l2norm_kernel<T>, StridedRows<T>(out),
           StridedRows<const T>(x), rows, x.shape[3] / groups, groups);
  });
}

void l2norm_backward_rows(const Context& ctx, const Tensor& d_x, const Tensor& d_out,
                          const Tensor& x, int groups) {
  const std::int64_t rows = rows_of(x);
  if (x.count() == 0) return;
  const CurrentDevice current(ctx.device);
  dispatch_floating(x.dtype, [&]<class T>() {
    launch(ctx, "gradient of the l2 norm", warps_for(rows), l2norm_backward_kernel<T>,
           StridedRows<T>(d_x), StridedRows<const T>(d_out), StridedRows<const T>(x), rows,
           x.shape[3] / groups, groups);
  });
}

}  // namespace quietformer::cuda
