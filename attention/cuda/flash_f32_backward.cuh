// Backward of `flash` in f32. Scores are recomputed wherever they are needed, so that every
// gradient has one owner and no order of addition depends on chance: a block of threads per tile of
// query rows for dq, per tile of keys (over the query heads of its key head) for dk and dv, per
// tile of the bias for its gradient.
#pragma once

#include "attention/cuda/flash_f32_deltas.cuh"
#include "attention/cuda/flash_f32_forward.cuh"
#include "attention/cuda/flash_f32_gradients.cuh"
#include "core/cuda/reduce.cuh"

namespace quietformer::cuda {

template <class N, int dim>
__global__ void __launch_bounds__(kTileThreads, QueryGradientTiles<dim>::kResident)
    flash_f32_query_gradients_kernel(const __grid_constant__ FlashF32Call call) {
  using Tiles = QueryGradientTiles<dim>;
  constexpr int R = Tiles::kRows, kStride = Tiles::kStride;
  constexpr int kSums = kMaxHeadParameters + 1;
  extern __shared__ __align__(16) float shared[];
  float *const queries = shared, *const d_out = queries + Tiles::kQueries * kStride,
               *const rows = d_out + Tiles::kQueries * kStride,
               *const score_tile = rows + kTile * kStride;
  const RowProblem<float>& p = call.p;
  const auto [head, batch, tile] = query_tile(call, Tiles::kQueries);
  const int kv_head = head / p.group;
  const SequencePlace& s = tile.sequence;
  const std::int64_t count = s.queries - tile.first, first_row = s.first_query + tile.first;
  double sums[kMaxHeadParameters] = {}, scale_sum = 0;
  if (count > 0)
    load_tile(d_out, kStride, call.d_out.at(batch, head, first_row), call.d_out.row, count,
              p.value_dim, Tiles::kQueries);
  for (int pair = 0; count > 0 && pair < call.pairs; ++pair) {
    const TileGradients<N> gradients(call, s, batch, head, pair);
    const KeyRange keys = keys_of_tile(call, s, pair, tile.first, Tiles::kQueries);
    float sum[R][dim / kSide] = {};
    __syncthreads();  // the tiles are free
    load_tile(queries, kStride, call.q[pair].at(batch, head, first_row), call.q[pair].row, count,
              p.dim, Tiles::kQueries);
    for (std::int64_t first = keys.begin / kTile * kTile; first < keys.end; first += kTile) {
      const std::int64_t left = s.keys - first, at = s.first_key + first;
      const float* const key_rows = call.k[pair].at(batch, kv_head, at);
      float weights[R][kCells], grads[R][kCells];
      load_tile(rows, kStride, call.v.at(batch, kv_head, at), call.v.row, left, p.value_dim);
      __syncthreads();
      multiply_rows(grads, d_out, rows, kStride, p.value_dim);
      __syncthreads();
      load_tile(rows, kStride, key_rows, call.k[pair].row, left, p.dim);
      __syncthreads();
      multiply_rows(weights, queries, rows, kStride, p.dim);
      gradients(weights, grads, tile.first, first, score_tile, sums);
      store_scores(score_tile, grads);
      __syncthreads();
      add_product(sum, score_tile, rows, kStride);
      __syncthreads();
    }
    __syncthreads();  // the queries are there also where no key was
    // dscale = sum of dscore q.k: the gradients of the queries, before the scale, times the
    // queries.
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int n = 0; n < dim / kSide; ++n) {
        const int feature = n / 4 * kTile + tile_x() * 4 + n % 4;
        if (feature < p.dim)
          scale_sum += static_cast<double>(sum[r][n]) *
                       static_cast<double>(queries[(tile_y() * R + r) * kStride + feature]);
      }
    float scale[R];
#pragma unroll
    for (float& value : scale) value = p.scale;
    if (call.dq[pair].data != nullptr)
      write_tile(call.dq[pair].at(batch, head, first_row), call.dq[pair].row, count, p.dim, sum,
                 scale);
  }
  double* const out = call.tile_sums + std::int64_t{blockIdx.x} * kSums;
#pragma unroll
  for (int k = 0; k < kMaxHeadParameters; ++k) {
    double total = 0;
    if constexpr (N::has_element_gradients)
      total = k < kParameters<N> ? block_reduce<kTileThreads>(sums[k], Plus()) : 0;
    if (threadIdx.x == 0) out[k] = total;
  }
  scale_sum = block_reduce<kTileThreads>(scale_sum, Plus());
  if (threadIdx.x == 0) out[kMaxHeadParameters] = scale_sum;
}

template <class N, int dim>
__global__ void __launch_bounds__(kTileThreads, KeyGradientTiles<dim>::kResident)
    flash_f32_key_gradients_kernel(const __grid_constant__ FlashF32Call call) {
  using Tiles = KeyGradientTiles<dim>;
  constexpr int kColumns = dim / kSide, kStride = Tiles::kStride;
  extern __shared__ __align__(16) float shared[];
  float *const keys = shared, *const values = keys + Tiles::kRows,
               *const rows = values + Tiles::kRows, *const score_tile = rows + Tiles::kRows;
  const RowProblem<float>& p = call.p;
  const auto [kv_head, batch, tile] = key_tile(call, p.heads / p.group);
  const SequencePlace& s = tile.sequence;
  const std::int64_t count = s.keys - tile.first, first_key = s.first_key + tile.first;
  if (count <= 0) return;
  load_tile(values, kStride, call.v.at(batch, kv_head, first_key), call.v.row, count, p.value_dim);
  float d_values[kCells][kColumns] = {};
  double ignored[kMaxHeadParameters] = {};
  for (int pair = 0; pair < call.pairs; ++pair) {
    float d_keys[kCells][kColumns] = {};
    __syncthreads();
    load_tile(keys, kStride, call.k[pair].at(batch, kv_head, first_key), call.k[pair].row, count,
              p.dim);
    for (int head = kv_head * p.group; head < (kv_head + 1) * p.group; ++head) {
      const TileGradients<N> gradients(call, s, batch, head, pair);
      for (std::int64_t first = 0; first < s.queries; first += kTile) {
        const KeyRange seen = keys_of_tile(call, s, pair, first);
        if (seen.begin >= tile.first + kTile || seen.end <= tile.first) continue;
        const std::int64_t left = s.queries - first, row = s.first_query + first;
        const float* const query_rows = call.q[pair].at(batch, head, row);
        float weights[kCells][kCells], grads[kCells][kCells];
        __syncthreads();
        load_tile(rows, kStride, query_rows, call.q[pair].row, left, p.dim);
        __syncthreads();
        multiply_rows(weights, rows, keys, kStride, p.dim);
        __syncthreads();
        load_tile(rows, kStride, call.d_out.at(batch, head, row), call.d_out.row, left,
                  p.value_dim);
        __syncthreads();
        multiply_rows(grads, rows, values, kStride, p.value_dim);
        gradients(weights, grads, first, tile.first, score_tile, ignored);
        store_scores(score_tile, weights);
        __syncthreads();
        add_transposed(d_values, score_tile, rows, kStride);
        __syncthreads();
        load_tile(rows, kStride, query_rows, call.q[pair].row, left, p.dim);
        store_scores(score_tile, grads);
        __syncthreads();
        add_transposed(d_keys, score_tile, rows, kStride);
      }
    }
    const float scale[kCells] = {p.scale, p.scale, p.scale, p.scale};
    if (call.dk[pair].data != nullptr)
      write_tile(call.dk[pair].at(batch, kv_head, first_key), call.dk[pair].row, count, p.dim,
                 d_keys, scale);
  }
  const float one[kCells] = {1, 1, 1, 1};
  if (call.dv.data != nullptr)
    write_tile(call.dv.at(batch, kv_head, first_key), call.dv.row, count, p.value_dim, d_values,
               one);
}

/// A block of threads per head adds up its tiles, in order.
static __global__ void __launch_bounds__(kTileThreads)
    tile_sums_kernel(const double* tile_sums, std::int64_t tiles, double* sums) {
  constexpr int kSums = kMaxHeadParameters + 1;
  for (int k = 0; k < kSums; ++k) {
    double sum = 0;
    for (std::int64_t t = threadIdx.x; t < tiles; t += kTileThreads)
      sum += tile_sums[(blockIdx.x * tiles + t) * kSums + k];
    sum = block_reduce<kTileThreads>(sum, Plus());
    if (threadIdx.x == 0) sums[std::int64_t{blockIdx.x} * kSums + k] += sum;
  }
}

/// A block of threads per 64 x 64 tile of one (batch, head) of the bias, or what is left of it
/// where a dimension is broadcast; it goes through all tiles of scores that add to its own, in
/// order.
template <class N>
__global__ void __launch_bounds__(kTileThreads)
    flash_f32_bias_kernel(const __grid_constant__ FlashF32Call call, int stride) {
  extern __shared__ __align__(16) float shared[];
  float *const a = shared, *const b = a + kTile * stride, *const score_tile = b + kTile * stride;
  const RowProblem<float>& p = call.p;
  const bool packed = p.cu_queries != nullptr, one_row = call.bias_shape[2] == 1,
             one_column = call.bias_shape[3] == 1;
  const auto row_tiles = static_cast<int>((call.bias_shape[2] + kTile - 1) / kTile),
             column_tiles = static_cast<int>((call.bias_shape[3] + kTile - 1) / kTile);
  int index = static_cast<int>(blockIdx.x);
  const int column_tile = index % column_tiles;
  index /= column_tiles;
  const int row_tile = index % row_tiles;
  index /= row_tiles;
  const int bias_head = index % static_cast<int>(call.bias_shape[1]),
            bias_batch = index / static_cast<int>(call.bias_shape[1]);
  const bool all_heads = call.bias_shape[1] == 1, all_batches = call.bias_shape[0] == 1;
  const int first_head = all_heads ? 0 : bias_head, last_head = all_heads ? p.heads : bias_head + 1,
            first_index = all_batches ? 0 : bias_batch,
            last_index = all_batches ? p.sequences : bias_batch + 1;
  double sum[kCells][kCells] = {}, ignored[kMaxHeadParameters] = {};
  for (int sequence = first_index; sequence < last_index; ++sequence) {
    const SequencePlace s = sequence_at(p, sequence);
    const int batch = packed ? 0 : sequence;
    const std::int64_t first_row = one_row ? 0 : std::int64_t{row_tile} * kTile,
                       end_row = one_row ? s.queries : first_row + 1;
    for (int head = first_head; head < last_head; ++head)
      for (int pair = 0; pair < call.pairs; ++pair) {
        const TileGradients<N> gradients(call, s, batch, head, pair);
        for (std::int64_t i = first_row; i < end_row; i += kTile) {
          const KeyRange seen = keys_of_tile(call, s, pair, i);
          const std::int64_t first_key = one_column ? seen.begin / kTile * kTile
                                                    : std::int64_t{column_tile} * kTile,
                             end_key = one_column ? seen.end : first_key + 1;
          for (std::int64_t j = first_key; j < end_key; j += kTile) {
            if (j >= seen.end || j + kTile <= seen.begin) continue;
            const std::int64_t rows = s.queries - i, keys = s.keys - j, row = s.first_query + i,
                               key = s.first_key + j;
            float weights[kCells][kCells], grads[kCells][kCells];
            __syncthreads();
            load_tile(a, stride, call.q[pair].at(batch, head, row), call.q[pair].row, rows, p.dim);
            load_tile(b, stride, call.k[pair].at(batch, head / p.group, key), call.k[pair].row,
                      keys, p.dim);
            __syncthreads();
            multiply_rows(weights, a, b, stride, p.dim);
            __syncthreads();
            load_tile(a, stride, call.d_out.at(batch, head, row), call.d_out.row, rows,
                      p.value_dim);
            load_tile(b, stride, call.v.at(batch, head / p.group, key), call.v.row, keys,
                      p.value_dim);
            __syncthreads();
            multiply_rows(grads, a, b, stride, p.value_dim);
            gradients(weights, grads, i, j, score_tile, ignored);
#pragma unroll
            for (int r = 0; r < kCells; ++r)
#pragma unroll
              for (int c = 0; c < kCells; ++c) sum[r][c] += static_cast<double>(grads[r][c]);
          }
        }
      }
  }
  // Rows of the tile, or columns, may be one and the same.
  __syncthreads();
  double* const parts = reinterpret_cast<double*>(shared);  // (kTile, kTile)
#pragma unroll
  for (int r = 0; r < kCells; ++r)
#pragma unroll
    for (int c = 0; c < kCells; ++c)
      parts[(tile_y() * kCells + r) * kTile + tile_x() + c * kSide] = sum[r][c];
  __syncthreads();
  const int rows = one_row ? 1 : kTile, columns = one_column ? 1 : kTile;
  for (int e = static_cast<int>(threadIdx.x); e < rows * columns; e += kTileThreads) {
    const int r = e / columns, c = e % columns;
    double total = 0;
    for (int y = r; y < (one_row ? kTile : r + 1); ++y)
      for (int x = c; x < (one_column ? kTile : c + 1); ++x) total += parts[y * kTile + x];
    const std::int64_t i = one_row ? 0 : std::int64_t{row_tile} * kTile + r,
                       j = one_column ? 0 : std::int64_t{column_tile} * kTile + c;
    if (i < call.bias_shape[2] && j < call.bias_shape[3])
      call.dbias.data[bias_batch * call.dbias.batch + bias_head * call.dbias.head +
                      i * call.dbias.query + j * call.dbias.key] = static_cast<float>(total);
  }
}

template <class N>
void FlashF32<N>::query_gradients(const Context& ctx, const FlashF32Call& call, double* sums) {
  if (call.p.heads * call.batch == 0) return;
  with_padded_dim(call.p.dim, call.p.value_dim, [&]<int dim>() {
    FlashF32Call sized = call;
    sized.tiles = call.p.tiles(call.p.queries, QueryGradientTiles<dim>::kQueries);
    launch_tiles(ctx, "attention gradients of queries in f32",
                 sized.tiles * call.p.heads * call.batch, QueryGradientTiles<dim>::kBytes,
                 flash_f32_query_gradients_kernel<N, dim>, sized);
    launch(ctx, "gradients of head parameters",
           {dim3(static_cast<unsigned>(call.p.heads * call.batch)), dim3(kTileThreads)},
           tile_sums_kernel, sized.tile_sums, sized.tiles, sums);
  });
}

template <class N>
void FlashF32<N>::key_gradients(const Context& ctx, const FlashF32Call& call) {
  const std::int64_t blocks = call.key_tiles * (call.p.heads / call.p.group) * call.batch;
  with_padded_dim(call.p.dim, call.p.value_dim, [&]<int dim>() {
    launch_tiles(ctx, "attention gradients of keys in f32", blocks, KeyGradientTiles<dim>::kBytes,
                 flash_f32_key_gradients_kernel<N, dim>, call);
  });
}

template <class N>
void FlashF32<N>::bias_gradient(const Context& ctx, const FlashF32Call& call) {
  const auto tiles = [](std::int64_t length) { return (length + kTile - 1) / kTile; };
  const std::int64_t blocks = call.bias_shape[0] * call.bias_shape[1] * tiles(call.bias_shape[2]) *
                              tiles(call.bias_shape[3]);
  const int stride = tile_stride(std::max(call.p.dim, call.p.value_dim));
  launch_tiles(ctx, "gradient of bias in f32", blocks,
               bias_bytes(std::max(call.p.dim, call.p.value_dim)), flash_f32_bias_kernel<N>, call,
               stride);
}

}  // namespace quietformer::cuda
