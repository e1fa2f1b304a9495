// The row constants of the backward of `flash` in f32, before its tiles.
#pragma once

#include "attention/cuda/flash_f32_forward.cuh"
#include "attention/cuda/flash_f32_gradients.cuh"
#include "core/cuda/reduce.cuh"

namespace quietformer::cuda {

/// DeltaRule::share_mean: delta of the rows of a tile of queries, by a block of threads each, over
/// the tiles of keys that they see.
template <class N>
__global__ void __launch_bounds__(kTileThreads)
    flash_f32_weight_sums_kernel(const __grid_constant__ FlashF32Call call, float* delta,
                                 int stride) {
  extern __shared__ __align__(16) float shared[];
  float *const queries = shared, *const d_out = queries + kTile * stride,
               *const rows = d_out + kTile * stride, *const score_tile = rows + kTile * stride;
  const RowProblem<float>& p = call.p;
  const auto [head, batch, tile] = query_tile(call, kTile);
  const int kv_head = head / p.group;
  const SequencePlace& s = tile.sequence;
  const std::int64_t count = s.queries - tile.first, first_row = s.first_query + tile.first;
  if (count <= 0) return;
  load_tile(d_out, stride, call.d_out.at(batch, head, first_row), call.d_out.row, count,
            p.value_dim);
  DeltaSums<double> sums[kCells];
  for (int pair = 0; pair < call.pairs; ++pair) {
    const TileGradients<N> gradients(call, s, batch, head, pair);
    const KeyRange keys = keys_of_tile(call, s, pair, tile.first);
    __syncthreads();  // the tiles are free
    load_tile(queries, stride, call.q[pair].at(batch, head, first_row), call.q[pair].row, count,
              p.dim);
    for (std::int64_t first = keys.begin / kTile * kTile; first < keys.end; first += kTile) {
      const std::int64_t left = s.keys - first, at = s.first_key + first;
      float weights[kCells][kCells], grads[kCells][kCells];
      load_tile(rows, stride, call.v.at(batch, kv_head, at), call.v.row, left, p.value_dim);
      __syncthreads();
      multiply_rows(grads, d_out, rows, stride, p.value_dim);
      __syncthreads();
      load_tile(rows, stride, call.k[pair].at(batch, kv_head, at), call.k[pair].row, left, p.dim);
      __syncthreads();
      multiply_rows(weights, queries, rows, stride, p.dim);
      gradients.add_delta_terms(weights, grads, tile.first, first, score_tile, sums);
      __syncthreads();
    }
  }
#pragma unroll
  for (int r = 0; r < kCells; ++r) {
    const DeltaSums<double> sum{row_reduce(sums[r].terms, Sum()),
                                row_reduce(sums[r].shares, Sum())};
    const int row = tile_y() * kCells + r;
    if (tile_x() == 0 && row < count)
      delta[(std::int64_t{batch} * p.heads + head) * p.queries + first_row + row] =
          static_cast<float>(sum.mean());
  }
}

/// delta = do.o of each row where the normaliser has it, and the rows' part of parameter gradients:
/// a block of threads per head, a warp per row.
template <class N>
__global__ void __launch_bounds__(kTileThreads)
    flash_f32_deltas_kernel(const __grid_constant__ FlashF32Call call, MatrixView<const float> o,
                            float* delta, double* sums) {
  const RowProblem<float>& p = call.p;
  const auto lane = static_cast<int>(threadIdx.x) % kWarp;
  const int head = static_cast<int>(blockIdx.x) % p.heads,
            batch = static_cast<int>(blockIdx.x) / p.heads;
  const auto parameters = load_parameters<N, double>(p, head);
  double parameter_sums[kMaxHeadParameters] = {};
  for (std::int64_t row = static_cast<int>(threadIdx.x) / kWarp; row < p.queries;
       row += kTileThreads / kWarp) {
    const std::int64_t at = std::int64_t{blockIdx.x} * p.queries + row;
    const float *const out = o.at(batch, head, row), *const d_out = call.d_out.at(batch, head, row);
    double sum = 0;
    for (int c = lane; c < p.value_dim; c += kWarp)
      sum += static_cast<double>(out[c]) * static_cast<double>(d_out[c]);
    sum = warp_reduce(sum, Plus());
    if (lane != 0) continue;
    delta[at] = static_cast<float>(sum);
    if constexpr (N::has_row_gradients)
      N::row_gradients(parameter_sums, sum, N::restore(static_cast<double>(p.row_state[at])),
                       parameters);
  }
#pragma unroll
  for (int k = 0; k < kMaxHeadParameters; ++k) {
    const double total = block_reduce<kTileThreads>(parameter_sums[k], Plus());
    if (threadIdx.x == 0) sums[std::int64_t{blockIdx.x} * (kMaxHeadParameters + 1) + k] += total;
  }
}

template <class N>
void FlashF32<N>::deltas(const Context& ctx, const FlashF32Call& call,
                         const MatrixView<const float>& o, float* delta, double* sums) {
  if constexpr (N::delta_rule == DeltaRule::share_mean) {
    static_assert(!N::has_row_gradients, "rows are not looked at here");
    FlashF32Call sized = call;
    sized.tiles = call.p.tiles(call.p.queries, kTile);
    const int stride = tile_stride(std::max(call.p.dim, call.p.value_dim));
    launch_tiles(ctx, "attention sums over weights in f32", sized.tiles * call.p.heads * call.batch,
                 weight_sum_bytes(stride), flash_f32_weight_sums_kernel<N>, sized, delta, stride);
  } else if constexpr (N::delta_rule == DeltaRule::output_dot || N::has_row_gradients) {
    launch_tiles(ctx, "attention gradients of rows in f32", std::int64_t{call.p.heads} * call.batch,
                 0, flash_f32_deltas_kernel<N>, call, o, delta, sums);
  }
}

}  // namespace quietformer::cuda
