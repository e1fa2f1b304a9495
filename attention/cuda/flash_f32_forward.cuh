// Forward of `flash` in f32: a block of threads per tile of query rows of a head, over tiles of
// keys. Weights that need the finished row take two passes: its sum first, without values.
#pragma once

#include "attention/cuda/flash_f32_tile.cuh"
#include "attention/normalizer/normalizer.h"
#include "core/cuda/launch.h"

namespace quietformer::cuda {

/// Adds a tile of scores to the state of a thread's rows.
template <class N, int R>
__device__ __forceinline__ void sum_terms(typename PartialRow<N>::Type (&partial)[R],
                                          const float (&scores)[R][kCells]) {
#pragma unroll
  for (int r = 0; r < R; ++r) {
    float high = scores[r][0];
#pragma unroll
    for (int c = 1; c < kCells; ++c) high = LargerScore()(high, scores[r][c]);
    N::raise(partial[r], row_reduce(high, LargerScore()));
    float terms = 0;
#pragma unroll
    for (const float score : scores[r]) terms += N::term(score, partial[r]);
    N::add(partial[r], row_reduce(terms, Sum()));
  }
}

template <class N, int dim>
__global__ void __launch_bounds__(kTileThreads, ForwardTiles<dim>::kResident)
    flash_f32_forward_kernel(const __grid_constant__ FlashF32Call call) {
  constexpr bool kTwoPasses = N::row_normalised && N::weights_need_final_row;
  using Tiles = ForwardTiles<dim>;
  constexpr int R = Tiles::kRows, kStride = Tiles::kStride;
  extern __shared__ __align__(16) float shared[];
  float *const queries = shared, *const rows = shared + Tiles::kQueries * kStride,
               *const weights = rows + kTile * kStride;
  const RowProblem<float>& p = call.p;
  const auto [head, batch, tile] = query_tile(call, Tiles::kQueries);
  const int kv_head = head / p.group;
  const SequencePlace& s = tile.sequence;
  if (tile.first >= s.queries) return;
  const std::int64_t count = s.queries - tile.first, first_row = s.first_query + tile.first;

  const auto parameters = load_parameters<N, float>(p, head);
  typename PartialRow<N>::Type partial[R];
  [[maybe_unused]] typename N::template Row<float> final_rows[R];
  float weight_sum[R] = {}, sum[R][dim / kSide] = {};
  // Passes and pairs are one loop, the first pass being its steps below 0.
  for (int step = kTwoPasses ? -call.pairs : 0; step < call.pairs; ++step) {
    const bool summing = kTwoPasses && step < 0;
    const int pair = summing ? step + call.pairs : step;
    if constexpr (kTwoPasses)
      if (step == 0)
#pragma unroll
        for (int r = 0; r < R; ++r) final_rows[r] = N::finish(partial[r], parameters);
    const TileScores tile_scores{call, s, head, pair};
    const KeyRange keys = keys_of_tile(call, s, pair, tile.first, Tiles::kQueries);
    __syncthreads();  // the tiles are free
    load_tile(queries, kStride, call.q[pair].at(batch, head, first_row), call.q[pair].row, count,
              p.dim, Tiles::kQueries);
    for (std::int64_t first = keys.begin / kTile * kTile; first < keys.end; first += kTile) {
      const std::int64_t left = s.keys - first, at = s.first_key + first;
      load_tile(rows, kStride, call.k[pair].at(batch, kv_head, at), call.k[pair].row, left, p.dim);
      __syncthreads();
      float scores[R][kCells];
      multiply_rows(scores, queries, rows, kStride, p.dim);
      __syncthreads();
      if (!summing)
        load_tile(rows, kStride, call.v.at(batch, kv_head, at), call.v.row, left, p.value_dim);

      tile_scores.adjust(scores, tile.first, first);
      if constexpr (kTwoPasses)
        if (summing) {
          sum_terms<N>(partial, scores);
          continue;
        }
#pragma unroll
      for (int r = 0; r < R; ++r) {
        if constexpr (kTwoPasses) {
#pragma unroll
          for (float& score : scores[r]) {
            score = N::weight(score, final_rows[r], parameters);
            weight_sum[r] += score;
          }
        } else if constexpr (N::row_normalised) {
          float high = scores[r][0];
#pragma unroll
          for (int c = 1; c < kCells; ++c) high = LargerScore()(high, scores[r][c]);
          const float factor = N::raise(partial[r], row_reduce(high, LargerScore()));
#pragma unroll
          for (float& value : sum[r]) value *= factor;
          weight_sum[r] *= factor;
          float terms = 0;
#pragma unroll
          for (float& score : scores[r]) {
            score = N::term(score, partial[r]);
            terms += score;
          }
          N::add(partial[r], row_reduce(terms, Sum()));
          weight_sum[r] += terms;
        } else {
          const typename N::template Row<float> row{};
#pragma unroll
          for (float& score : scores[r]) {
            score = N::weight(score, row, parameters);
            weight_sum[r] += score;
          }
        }
      }
      if (p.dropout) {
        tile_scores.template store_factors<R>(weights, tile.first, first);
#pragma unroll
        for (int r = 0; r < R; ++r)
#pragma unroll
          for (int c = 0; c < kCells; ++c) scores[r][c] *= TileScores::stored<R>(weights, r, c);
        __syncwarp();
      }
      store_scores(weights, scores);
      __syncthreads();
      add_product(sum, weights, rows, kStride);
      __syncthreads();
    }
  }

  float scale[R];
#pragma unroll
  for (int r = 0; r < R; ++r) {
    scale[r] = 1;
    if constexpr (N::row_normalised && !kTwoPasses) scale[r] = N::scale(partial[r], parameters);
    weight_sum[r] = row_reduce(weight_sum[r], Sum()) * scale[r];
    const std::int64_t row = first_row + tile_y() * R + r;
    if (tile_x() != 0 || tile.first + tile_y() * R + r >= s.queries) continue;
    const std::int64_t out = (std::int64_t{batch} * p.heads + head) * p.queries + row;
    if (p.row_sum != nullptr) p.row_sum[out] = weight_sum[r];
    if constexpr (N::row_normalised) {
      const auto final_row = N::finish(partial[r], parameters);
      const RowOutputs<float> outputs = N::outputs(partial[r], final_row, parameters);
      if (p.row_state != nullptr) p.row_state[out] = N::saved(final_row);
      if (p.lse != nullptr) p.lse[out] = outputs.lse;
      if (p.lse_scores != nullptr) p.lse_scores[out] = outputs.lse_scores;
      if (p.sink_mass != nullptr) p.sink_mass[out] = outputs.sink_mass;
    }
  }
  write_tile(call.o.at(batch, head, first_row), call.o.row, count, p.value_dim, sum, scale);
}

/// A block of threads per tile of keys of a head, over the tiles of query rows that see it.
template <class N>
__global__ void __launch_bounds__(kTileThreads)
    flash_f32_totals_kernel(const __grid_constant__ FlashF32Call call, int stride) {
  extern __shared__ __align__(16) float shared[];
  float *const queries = shared, *const keys = shared + kTile * stride,
               *const sums = keys + kTile * stride;
  const RowProblem<float>& p = call.p;
  const auto [head, batch, tile] = key_tile(call, p.heads);
  const int kv_head = head / p.group;
  const SequencePlace& s = tile.sequence;
  if (tile.first >= s.keys) return;
  const auto parameters = load_parameters<N, float>(p, head);
  const std::int64_t head_rows = (std::int64_t{batch} * p.heads + head) * p.queries + s.first_query;
  double total[kCells] = {};
  for (int pair = 0; pair < call.pairs; ++pair) {
    const TileScores tile_scores{call, s, head, pair};
    __syncthreads();
    load_tile(keys, stride, call.k[pair].at(batch, kv_head, s.first_key + tile.first),
              call.k[pair].row, s.keys - tile.first, p.dim);
    for (std::int64_t first = 0; first < s.queries; first += kTile) {
      const KeyRange seen = keys_of_tile(call, s, pair, first);
      if (seen.begin >= tile.first + kTile || seen.end <= tile.first) continue;
      __syncthreads();
      load_tile(queries, stride, call.q[pair].at(batch, head, s.first_query + first),
                call.q[pair].row, s.queries - first, p.dim);
      __syncthreads();
      float scores[kCells][kCells];
      multiply_rows(scores, queries, keys, stride, p.dim);
      tile_scores.adjust(scores, first, tile.first);
#pragma unroll
      for (int r = 0; r < kCells; ++r) {
        const std::int64_t i = first + tile_y() * kCells + r;
        if (i >= s.queries) continue;
        typename N::template Row<float> row{};
        if constexpr (N::row_normalised) row = N::restore(p.row_state[head_rows + i]);
#pragma unroll
        for (int c = 0; c < kCells; ++c)
          total[c] += static_cast<double>(N::weight(scores[r][c], row, parameters));
      }
    }
  }
  // Sums of 16 threads per key, added in order. Double, so two floats' room each.
  double* const parts = reinterpret_cast<double*>(sums);
#pragma unroll
  for (int c = 0; c < kCells; ++c) parts[tile_y() * kTile + tile_x() + c * kSide] = total[c];
  __syncthreads();
  const auto key = static_cast<int>(threadIdx.x);
  if (key >= kTile || tile.first + key >= s.keys) return;
  double sum = 0;
  for (int y = 0; y < kSide; ++y) sum += parts[y * kTile + key];
  call.total_attention[(std::int64_t{batch} * p.heads + head) * p.keys + s.first_key + tile.first +
                       key] = static_cast<float>(sum);
}

template <class... Parameters, class... Arguments>
void launch_tiles(const Context& ctx, std::string_view name, std::int64_t blocks, int shared_bytes,
                  void (*kernel)(Parameters...), Arguments&&... arguments) {
  if (blocks == 0) return;
  check_cuda(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes),
      "attention in f32: shared memory", ctx.device);
  launch(ctx, name,
         {dim3(static_cast<unsigned>(blocks)), dim3(kTileThreads),
          static_cast<std::size_t>(shared_bytes)},
         kernel, std::forward<Arguments>(arguments)...);
}

template <class N>
void FlashF32<N>::forward(const Context& ctx, const FlashF32Call& call) {
  with_padded_dim(call.p.dim, call.p.value_dim, [&]<int dim>() {
    FlashF32Call sized = call;
    sized.tiles = call.p.tiles(call.p.queries, ForwardTiles<dim>::kQueries);
    launch_tiles(ctx, "attention in f32", sized.tiles * call.p.heads * call.batch,
                 ForwardTiles<dim>::kBytes, flash_f32_forward_kernel<N, dim>, sized);
  });
}

template <class N>
void FlashF32<N>::totals(const Context& ctx, const FlashF32Call& call) {
  const int stride = tile_stride(call.p.dim);
  launch_tiles(ctx, "total attention in f32", call.key_tiles * call.p.heads * call.batch,
               totals_bytes(call.p.dim), flash_f32_totals_kernel<N>, call, stride);
}

}  // namespace quietformer::cuda
