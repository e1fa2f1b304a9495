// For kernels on rows of features: how a tensor falls into rows, and the sum over rows that every
// parameter gradient needs.
#pragma once

#include "core/cuda/reduce.cuh"
#include "core/cuda/storage.cuh"
#include "core/cuda/workspace.h"
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

/// Where sums over rows are added.
template <class C, int kSums>
struct ColumnSums {
  C* out[kSums];  // null: not wanted
};

inline constexpr int kSumLanes = 32, kSumRows = 8;  // threads of a block
inline constexpr int kPartRows = 32;                // threads that share a column of parts

/// out[s][c] += sum over p of parts[p][s][c]. The sums of a column are added by halves.
template <class C, int kSums>
__global__ void add_parts_kernel(ColumnSums<C, kSums> sums, const C* __restrict__ parts,
                                 std::int64_t count, std::int64_t columns) {
  __shared__ C part[kPartRows][kSumLanes];
  const int x = threadIdx.x, y = threadIdx.y;
  const std::int64_t c = std::int64_t{blockIdx.x} * kSumLanes + x;
#pragma unroll
  for (int s = 0; s < kSums; ++s) {
    if (sums.out[s] == nullptr) continue;
    C sum = 0;
    if (c < columns) {
#pragma unroll 4
      for (std::int64_t p = y; p < count; p += kPartRows)
        sum += parts[(p * kSums + s) * columns + c];
    }
    part[y][x] = sum;
    for (int half = kPartRows / 2; half > 0; half /= 2) {
      __syncthreads();
      if (y < half) part[y][x] += part[y + half][x];
    }
    if (y == 0 && c < columns) sums.out[s][c] += part[0][x];
    __syncthreads();  // part is free again
  }
}

/// `parts` (count, kSums, columns), in the workspace.
template <class C, int kSums>
void add_parts(const Context& ctx, std::string_view name, const ColumnSums<C, kSums>& out,
               const C* parts, std::int64_t count, std::int64_t columns) {
  const auto blocks = static_cast<unsigned>((columns + kSumLanes - 1) / kSumLanes);
  launch(ctx, name, {dim3(blocks), dim3(kSumLanes, kPartRows)}, add_parts_kernel<C, kSums>, out,
         parts, count, columns);
}

/// A block sums a stretch of rows: thread (x, y) adds rows y, y + kSumRows, ... of kWide
/// neighbouring columns.
template <class C, int kSums, int kWide, class Term>
__global__ void __launch_bounds__(kSumLanes* kSumRows)
    column_parts_kernel(C* parts, std::int64_t rows, std::int64_t stretch, std::int64_t columns,
                        Term term) {
  __shared__ C part[kSumRows][kSumLanes * kWide];
  const int x = threadIdx.x, y = threadIdx.y;
  const std::int64_t c = (std::int64_t{blockIdx.x} * kSumLanes + x) * kWide;
  const std::int64_t begin = blockIdx.y * stretch;
  const std::int64_t end = begin + stretch < rows ? begin + stretch : rows;
  C sum[kSums][kWide] = {};
  if (c < columns) {
#pragma unroll 4
    for (std::int64_t r = begin + y; r < end; r += kSumRows) term(sum, r, c);
  }
#pragma unroll
  for (int s = 0; s < kSums; ++s) {
#pragma unroll
    for (int j = 0; j < kWide; ++j) part[y][j * kSumLanes + x] = sum[s][j];
    __syncthreads();
    for (int i = y * kSumLanes + x; i < kSumLanes * kWide; i += kSumLanes * kSumRows) {
      C total = part[0][i];
#pragma unroll
      for (int r = 1; r < kSumRows; ++r) total += part[r][i];
      const std::int64_t column =
          (std::int64_t{blockIdx.x} * kSumLanes + i % kSumLanes) * kWide + i / kSumLanes;
      if (column < columns) parts[(blockIdx.y * kSums + s) * columns + column] = total;
    }
    __syncthreads();  // part is free again
  }
}

/// out[s][c] += sum over r of what term(sum, r, c) adds to sum[s][j] for column c + j, for c in
/// [0, columns), a multiple of kWide. Term is a functor with a __device__ void operator()(C
/// (&sum)[kSums][kWide], row, column) const. The order depends on rows and columns alone.
template <class C, int kSums, int kWide, class Term>
void add_column_sums(const Context& ctx, std::string_view name, const ColumnSums<C, kSums>& out,
                     std::int64_t rows, std::int64_t columns, const Term& term) {
  if (rows == 0 || columns == 0) return;
  constexpr std::int64_t kBlocks = 1024, kFewestRows = 4 * kSumRows;
  const std::int64_t across = (columns + kSumLanes * kWide - 1) / (kSumLanes * kWide);
  const std::int64_t most =
      kWorkspaceBytes / (columns * kSums * static_cast<std::int64_t>(sizeof(C)));
  QF_EXPECTS(most > 0);
  const std::int64_t wanted = std::clamp<std::int64_t>(
      std::min((kBlocks + across - 1) / across, most), 1, (rows + kFewestRows - 1) / kFewestRows);
  const std::int64_t stretch = (rows + wanted - 1) / wanted, count = (rows + stretch - 1) / stretch;
  C* const parts = static_cast<C*>(workspace(ctx.device));
  launch(ctx, name,
         {dim3(static_cast<unsigned>(across), static_cast<unsigned>(count)),
          dim3(kSumLanes, kSumRows)},
         column_parts_kernel<C, kSums, kWide, Term>, parts, rows, stretch, columns, term);
  add_parts(ctx, name, out, parts, count, columns);
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
