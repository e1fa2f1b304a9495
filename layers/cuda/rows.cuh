// For kernels on rows of features: how a tensor falls into rows, and the sum over rows that every
// parameter gradient needs.
#pragma once

#include "core/cuda/reduce.cuh"
#include "layers/rows.h"

namespace quietformer::cuda {

/// Rows of features in one, two or (contiguous) more outer dimensions, as NormStatistics' functions
/// take them.
template <class T>
struct Rows {
  T* data;
  std::int64_t inner;  // rows per outer index
  std::int64_t outer_stride, inner_stride;

  explicit Rows(const Tensor& t) : data(t.as<T>()), inner(1), inner_stride(0) {
    const int rank = t.shape.rank;
    if (rank <= 3 && !t.contiguous()) {
      QF_EXPECTS(rank >= 2 && t.stride[rank - 1] == 1);
      outer_stride = t.stride[0];
      if (rank == 3) inner = t.shape[1], inner_stride = t.stride[1];
      return;
    }
    QF_EXPECTS(t.contiguous());
    outer_stride = columns_of(t);
  }
  __device__ T* operator[](std::int64_t row) const {
    if (inner == 1) return data + row * outer_stride;  // a division costs as much as ten loads
    return data + row / inner * outer_stride + row % inner * inner_stride;
  }
};

/// Columns of a block, 32 bytes of floats, the least that memory moves: blocks enough for narrow
/// matrices too. Rows that a block looks at at once, a power of two.
inline constexpr int kSumColumns = 8, kSumRows = 128;

template <class T, int kSums>
struct ColumnSums {
  T* out[kSums];  // null: not wanted
};

/// Thread (c, r) adds rows r, r + kSumRows, ... of column c; the sums of a column are then added by
/// halves.
template <class T, int kSums, class Term>
__global__ void __launch_bounds__(kSumColumns* kSumRows)
    column_sums_kernel(ColumnSums<T, kSums> sums, std::int64_t rows, std::int64_t columns,
                       Term term) {
  __shared__ T part[kSumRows][kSumColumns];
  const int x = threadIdx.x, y = threadIdx.y;
  const std::int64_t c = std::int64_t{blockIdx.x} * kSumColumns + x;
  T sum[kSums] = {};
  if (c < columns) {
#pragma unroll 8
    for (std::int64_t r = y; r < rows; r += kSumRows) term(sum, r, c);
  }
#pragma unroll
  for (int s = 0; s < kSums; ++s) {
    part[y][x] = sum[s];
    for (int half = kSumRows / 2; half > 0; half /= 2) {
      __syncthreads();
      if (y < half) part[y][x] += part[y + half][x];
    }
    if (y == 0 && c < columns && sums.out[s] != nullptr) sums.out[s][c] += part[0][x];
    __syncthreads();  // part is free again
  }
}

/// out[s][c] += sum over r of what term(sum, r, c) adds to sum[s], for c in [0, columns). Term is a
/// functor with a __device__ void operator()(T (&sum)[kSums], row, column) const.
template <class T, int kSums, class Term>
void add_column_sums(const Context& ctx, std::string_view name, const ColumnSums<T, kSums>& out,
                     std::int64_t rows, std::int64_t columns, const Term& term) {
  if (rows == 0 || columns == 0) return;
  const auto blocks = static_cast<unsigned>((columns + kSumColumns - 1) / kSumColumns);
  launch(ctx, name, {dim3(blocks), dim3(kSumColumns, kSumRows)}, column_sums_kernel<T, kSums, Term>,
         out, rows, columns, term);
}

/// A warp for each of `rows` rows, eight to a block: every row's elements are read side by side and
/// no element's column takes a division.
inline constexpr int kRowsPerBlock = 8;
inline LaunchShape warp_per_row(std::int64_t rows) {
  return shape_for(rows * kWarp, kRowsPerBlock * kWarp, 1u << 30);
}
/// In such a kernel: the row of this warp, which may be past the last one, and this thread's lane.
__device__ inline std::int64_t row_of_warp() {
  return std::int64_t{blockIdx.x} * kRowsPerBlock + threadIdx.x / kWarp;
}
__device__ inline int lane() {
  return static_cast<int>(threadIdx.x % kWarp);
}

}  // namespace quietformer::cuda
