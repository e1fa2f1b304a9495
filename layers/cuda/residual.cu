#include "core/cuda/map.cuh"
#include "layers/cuda/dropout.cuh"
#include "layers/cuda/operations.h"
#include "layers/cuda/rows.cuh"

namespace quietformer::cuda {
namespace {

// Outputs may alias inputs, so nothing here is __restrict__ but the gain.

template <class C>
struct Residual {
  C alpha;
  __device__ C operator()(C x, C branch) const { return alpha * x + branch; }
};

template <class T>
__global__ void residual_gain_kernel(T* out, const T* x, const T* branch, Compute<T> alpha,
                                     const Compute<T>* __restrict__ gain, std::int64_t rows,
                                     std::int64_t columns) {
  const std::int64_t row = row_of_warp();
  if (row >= rows) return;
  for (std::int64_t c = lane(); c < columns; c += kWarp) {
    const std::int64_t i = row * columns + c;
    out[i] = narrow<T>(alpha * widen(x[i]) + gain[c] * widen(branch[i]));
  }
}

template <class T>
__global__ void scale_columns_kernel(T* y, const T* x, const Compute<T>* __restrict__ gain,
                                     std::int64_t rows, std::int64_t columns) {
  const std::int64_t row = row_of_warp();
  if (row >= rows) return;
  for (std::int64_t c = lane(); c < columns; c += kWarp)
    y[row * columns + c] = narrow<T>(gain[c] * widen(x[row * columns + c]));
}

template <class T>
struct Product {
  const T *a, *b;
  std::int64_t columns;
  __device__ void operator()(Compute<T> (&sum)[1][1], std::int64_t r, std::int64_t c) const {
    sum[0][0] += widen(a[r * columns + c]) * widen(b[r * columns + c]);
  }
};

/// A thread decides four neighbouring columns, by one call of Philox. `whole`: rows fall into fours
/// that lie in one access.
template <class T>
__global__ void dropout_kernel(T* y, const T* x, Compute<T> gain, DropoutStream stream,
                               std::int64_t rows, std::int64_t columns, bool whole) {
  struct alignas(4 * sizeof(T) > 16 ? 16 : 4 * sizeof(T)) Four {
    T value[4];
  };
  const std::int64_t row = row_of_warp();
  if (row >= rows) return;
  const auto keep = [&](std::uint32_t word, T value) {
    return word >= stream.threshold ? narrow<T>(widen(value) * gain) : narrow<T>(Compute<T>(0));
  };
  for (std::int64_t c = 4 * lane(); c < columns; c += 4 * kWarp) {
    const Philox4 bits = stream.bits(row, c);
    const std::int64_t first = row * columns + c;
    if (whole) {
      Four four = *reinterpret_cast<const Four*>(x + first);
#pragma unroll
      for (int j = 0; j < 4; ++j) four.value[j] = keep(bits.word[j], four.value[j]);
      *reinterpret_cast<Four*>(y + first) = four;
      continue;
    }
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (c + j < columns) y[first + j] = keep(bits.word[j], x[first + j]);
  }
}

}  // namespace

void residual_forward(const Context& ctx, const Tensor& out, const Tensor& x, const Tensor& branch,
                      double alpha, const Tensor& gain) {
  expect_on_device(ctx, out, x, branch, gain);
  const CurrentDevice current(ctx.device);
  dispatch_storage(out.dtype, [&]<class T>() {
    using C = Compute<T>;
    if (!gain) {
      map(ctx, "residual_forward", out.as<T>(), out.count(), Residual<C>{C(alpha)}, x.as<T>(),
          branch.as<T>());
      return;
    }
    const std::int64_t rows = rows_of(out);
    launch(ctx, "residual_forward", warp_per_row(rows), residual_gain_kernel<T>, out.as<T>(),
           x.as<T>(), branch.as<T>(), alpha, gain.as<C>(), rows, columns_of(out));
  });
}

void residual_backward_gain(const Context& ctx, const Tensor& d_branch, const Tensor& d_gain,
                            const Tensor& d_out, const Tensor& branch, const Tensor& gain) {
  expect_on_device(ctx, d_branch, d_gain, d_out, branch, gain);
  const CurrentDevice current(ctx.device);
  const std::int64_t rows = rows_of(d_out), columns = columns_of(d_out);
  dispatch_storage(d_out.dtype, [&]<class T>() {
    using C = Compute<T>;
    add_column_sums<C, 1, 1>(ctx, "residual_backward_gain", {d_gain.as<C>()}, rows, columns,
                             Product<T>{d_out.as<T>(), branch.as<T>(), columns});
    launch(ctx, "residual_backward", warp_per_row(rows), scale_columns_kernel<T>, d_branch.as<T>(),
           d_out.as<T>(), gain.as<C>(), rows, columns);
  });
}

void dropout_apply(const Context& ctx, const Dropout& dropout, const Tensor& y, const Tensor& x) {
  expect_on_device(ctx, y, x);
  if (x.count() == 0) return;
  const CurrentDevice current(ctx.device);
  if (!active(ctx, dropout)) {
    check_cuda(cudaMemcpyAsync(y.data, x.data, static_cast<std::size_t>(x.bytes()),
                               cudaMemcpyDeviceToDevice, ctx.stream),
               "dropout", ctx.device);
    return;
  }
  const DropoutStream stream(ctx, dropout, x.shape[1]);
  const std::int64_t rows = rows_of(x);
  dispatch_storage(x.dtype, [&]<class T>() {
    const bool whole = x.shape[2] % 4 == 0 && starts_pack(y.as<T>(), x.as<T>());
    launch(ctx, "dropout", warp_per_row(rows), dropout_kernel<T>, y.as<T>(), x.as<T>(),
           1 / (1 - dropout.probability), stream, rows, x.shape[2], whole);
  });
}

}  // namespace quietformer::cuda
