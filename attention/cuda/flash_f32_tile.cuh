// Tiles of the f32 kernels of `flash`: 64 or 128 queries by 64 keys by a block of 256 threads, as
// 16 x 16.
//
// With R = 4 or 8 rows to a thread, thread (y, x) holds scores (R y + r, x + 16 c), c below 4, so
// that 16 lanes of one warp hold a row and rows of shared memory that neighbouring threads read lie
// in different banks: their stride is 4 modulo 32. Of a product with a tile's features it holds
// columns 64 n + 4 x + e. More rows to a thread read shared memory less often, fewer keep more
// blocks resident; measured on an H200, 8 rows pay (a little) in forward up to a head dim of 64.
#pragma once

#include <algorithm>

#include "attention/cuda/flash_call.h"
#include "attention/cuda/flash_f32.h"
#include "attention/cuda/row_problem.cuh"

namespace quietformer::cuda {

inline constexpr int kTile = 64, kSide = 16, kCells = 4, kTileThreads = kSide * kSide;
inline constexpr int kScoreStride = kTile + 4;

// --- shared memory of the kernels, in bytes ---

/// Rows to a thread, and shared memory: queries, then keys or values, then weights.
template <int dim>
struct ForwardTiles {
  static constexpr int kRows = dim <= 64 ? 8 : 4, kQueries = kSide * kRows;
  static constexpr int kResident = dim <= 128 ? 2 : 1;  // blocks that an SM is to hold
  static constexpr int kStride = dim + 4;
  static constexpr int kBytes = ((kQueries + kTile) * kStride + kQueries * kScoreStride) * 4;
};

/// Shared memory: three tiles of rows and one of scores.
template <int dim>
struct KeyGradientTiles {
  static constexpr int kResident = dim <= 64 ? 2 : 1;  // blocks that an SM is to hold
  static constexpr int kStride = dim + 4, kRows = kTile * kStride;
  static constexpr int kBytes = (3 * kRows + kTile * kScoreStride) * int{sizeof(float)};
};

/// Rows to a thread, and shared memory: queries, gradients of their outputs, keys or values,
/// scores.
template <int dim>
struct QueryGradientTiles {
  static constexpr int kRows = 4, kQueries = kSide * kRows;
  static constexpr int kResident = dim <= 64 ? 2 : 1;  // blocks that an SM is to hold
  static constexpr int kStride = dim + 4;
  static constexpr int kBytes = ((2 * kQueries + kTile) * kStride + kQueries * kScoreStride) * 4;
};

/// f.operator()<dim>() for the narrowest padded head dim that holds both.
template <class F>
decltype(auto) with_padded_dim(std::int64_t dim, std::int64_t value_dim, const F& f) {
  switch (padded_dim(std::max(dim, value_dim))) {
    case 64:
      return f.template operator()<64>();
    case 128:
      return f.template operator()<128>();
    default:
      return f.template operator()<256>();
  }
}

/// The stride of tiles whose features are known at run time alone: 4 modulo 32.
inline int tile_stride(int features) {
  return (features + 31) / 32 * 32 + 4;
}

/// Two tiles of rows and sums of columns.
inline int totals_bytes(int features) {
  return 2 * kTile * tile_stride(features) * int{sizeof(float)} +
         kSide * kTile * int{sizeof(double)};
}
/// Three tiles of rows and one of scores; no more than QueryGradientTiles.
inline int weight_sum_bytes(int stride) {
  return (3 * kTile * stride + kTile * kScoreStride) * int{sizeof(float)};
}
/// Two tiles of rows and one of scores; their sums take the place of all.
inline int bias_bytes(int features) {
  return std::max((2 * kTile * tile_stride(features) + kTile * kScoreStride) * int{sizeof(float)},
                  kTile * kTile * int{sizeof(double)});
}

__device__ __forceinline__ int tile_y() {
  return static_cast<int>(threadIdx.x) / kSide;
}
__device__ __forceinline__ int tile_x() {
  return static_cast<int>(threadIdx.x) % kSide;
}

/// Over the 16 threads of a row.
template <class T, class Combine>
__device__ __forceinline__ T row_reduce(T value, Combine combine) {
#pragma unroll
  for (int distance = kSide / 2; distance > 0; distance /= 2)
    value = combine(value, __shfl_xor_sync(0xFFFFFFFFu, value, distance));
  return value;
}

struct LargerScore {
  __device__ float operator()(float a, float b) const { return a > b ? a : b; }
};
struct Sum {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};

/// Tile `slot` of RowProblem::tiles(), of `size` query rows or keys, of batch entry `batch` (0 when
/// packed).
struct SequenceTile {
  SequencePlace sequence;
  int first;  // row or key of the sequence
};
__device__ inline SequenceTile sequence_tile(const RowProblem<float>& p, bool over_keys, int size,
                                             int slot, int batch) {
  if (p.cu_queries == nullptr) return {sequence_at(p, batch), slot * size};
  const PackedTile at = packed_tile(over_keys ? p.cu_keys : p.cu_queries, p.sequences, size, slot);
  return {sequence_at(p, at.sequence), at.tile * size};
}

/// The tile of a head that a block of threads works on.
struct BlockTile {
  int head, batch;
  SequenceTile tile;
};
/// Of `size` query rows. Later tiles see more keys when causal: they come first, so that no long
/// one is left over.
__device__ inline BlockTile query_tile(const FlashF32Call& call, int size) {
  const auto tiles = static_cast<int>(call.tiles), index = static_cast<int>(blockIdx.x);
  const int head = index / tiles % call.p.heads, batch = index / tiles / call.p.heads;
  return {head, batch, sequence_tile(call.p, false, size, tiles - 1 - index % tiles, batch)};
}
/// Of kTile keys of one of `heads` heads.
__device__ inline BlockTile key_tile(const FlashF32Call& call, int heads) {
  const auto tiles = static_cast<int>(call.key_tiles), index = static_cast<int>(blockIdx.x);
  const int head = index / tiles % heads, batch = index / tiles / heads;
  return {head, batch, sequence_tile(call.p, true, kTile, index % tiles, batch)};
}

/// Keys that query i takes from a pair (0: near), and i's place in the call.
__device__ inline KeyRange keys_of(const FlashF32Call& call, const SequencePlace& s, int pair,
                                   std::int64_t i) {
  KeyRange range = visible_keys(call.p, s, i);
  if (call.pairs == 2) {
    const std::int64_t far = call.far_keys[s.first_query + i];
    if (pair == 0 && far > range.begin) range.begin = far;
    if (pair == 1 && far < range.end) range.end = far;
    if (range.end < range.begin) range.end = range.begin;
  }
  return range;
}

/// The smallest range that holds the keys of rows [first, first + size): both ends grow with rows.
__device__ inline KeyRange keys_of_tile(const FlashF32Call& call, const SequencePlace& s, int pair,
                                        std::int64_t first, int size = kTile) {
  if (first >= s.queries) return {0, 0};
  const std::int64_t last = first + size <= s.queries ? first + size - 1 : s.queries - 1;
  const std::int64_t begin = keys_of(call, s, pair, first).begin,
                     end = keys_of(call, s, pair, last).end;
  return {begin < end ? begin : end, end};
}

/// Copies rows [0, rows) of a matrix to a tile of `size`; the tile's other rows, and features up to
/// a multiple of 4, become 0.
__device__ inline void load_tile(float* tile, int stride, const float* from,
                                 std::int64_t row_stride, std::int64_t rows, int features,
                                 int size = kTile) {
  const int chunks = (features + 3) / 4;
  const bool aligned =
      reinterpret_cast<std::uintptr_t>(from) % 16 == 0 && row_stride % 4 == 0 && features % 4 == 0;
  for (int e = static_cast<int>(threadIdx.x); e < size * chunks; e += kTileThreads) {
    const int row = e / chunks, feature = e % chunks * 4;
    float4 value = make_float4(0, 0, 0, 0);
    if (row < rows) {
      const float* const at = from + row * row_stride + feature;
      if (aligned) {
        value = *reinterpret_cast<const float4*>(at);
      } else {
        value.x = at[0];
        if (feature + 1 < features) value.y = at[1];
        if (feature + 2 < features) value.z = at[2];
        if (feature + 3 < features) value.w = at[3];
      }
    }
    *reinterpret_cast<float4*>(tile + row * stride + feature) = value;
  }
}

__device__ __forceinline__ void load_four(float (&to)[4], const float* from) {
  const float4 value = *reinterpret_cast<const float4*>(from);
  to[0] = value.x, to[1] = value.y, to[2] = value.z, to[3] = value.w;
}

/// scores = rows of a (queries) times rows of b (keys).
template <int R>
__device__ __forceinline__ void multiply_rows(float (&scores)[R][kCells], const float* a,
                                              const float* b, int stride, int features) {
#pragma unroll
  for (int r = 0; r < R; ++r)
#pragma unroll
    for (int c = 0; c < kCells; ++c) scores[r][c] = 0;
  a += tile_y() * R * stride;
  b += tile_x() * stride;
#pragma unroll 4
  for (int f = 0; f < features; f += 4) {
    float x[R][4], y[kCells][4];
#pragma unroll
    for (int r = 0; r < R; ++r) load_four(x[r], a + r * stride + f);
#pragma unroll
    for (int c = 0; c < kCells; ++c) load_four(y[c], b + c * kSide * stride + f);
#pragma unroll
    for (int e = 0; e < 4; ++e)
#pragma unroll
      for (int r = 0; r < R; ++r)
#pragma unroll
        for (int c = 0; c < kCells; ++c) scores[r][c] += x[r][e] * y[c][e];
  }
}

/// Puts a thread's scores where all see them.
template <int R>
__device__ __forceinline__ void store_scores(float* to, const float (&scores)[R][kCells]) {
#pragma unroll
  for (int r = 0; r < R; ++r)
#pragma unroll
    for (int c = 0; c < kCells; ++c)
      to[(tile_y() * R + r) * kScoreStride + tile_x() + c * kSide] = scores[r][c];
}

/// sum (rows R y + r) += scores times the rows of a tile of keys.
template <int R, int columns>
__device__ __forceinline__ void add_product(float (&sum)[R][columns], const float* scores,
                                            const float* tile, int stride) {
  scores += tile_y() * R * kScoreStride;
  tile += tile_x() * 4;
#pragma unroll 2
  for (int j = 0; j < kTile; j += 4) {
    float p[R][4];
#pragma unroll
    for (int r = 0; r < R; ++r) load_four(p[r], scores + r * kScoreStride + j);
#pragma unroll
    for (int e = 0; e < 4; ++e)
#pragma unroll
      for (int n = 0; n < columns / 4; ++n) {
        float x[4];
        load_four(x, tile + (j + e) * stride + n * kTile);
#pragma unroll
        for (int r = 0; r < R; ++r)
#pragma unroll
          for (int k = 0; k < 4; ++k) sum[r][n * 4 + k] += p[r][e] * x[k];
      }
  }
}

/// sum (keys 4 y + r) += transposed scores times the rows of a tile of queries.
template <int columns>
__device__ __forceinline__ void add_transposed(float (&sum)[kCells][columns], const float* scores,
                                               const float* tile, int stride) {
  scores += tile_y() * kCells;
  tile += tile_x() * 4;
#pragma unroll 4
  for (int i = 0; i < kTile; ++i) {
    float p[kCells];
    load_four(p, scores + i * kScoreStride);
#pragma unroll
    for (int n = 0; n < columns / 4; ++n) {
      float x[4];
      load_four(x, tile + i * stride + n * kTile);
#pragma unroll
      for (int r = 0; r < kCells; ++r)
#pragma unroll
        for (int k = 0; k < 4; ++k) sum[r][n * 4 + k] += p[r] * x[k];
    }
  }
}

/// Writes rows [0, rows) of a thread's sums, times `scale` of its rows.
template <int R, int columns>
__device__ __forceinline__ void write_tile(float* to, std::int64_t row_stride, std::int64_t rows,
                                           int features, const float (&sum)[R][columns],
                                           const float (&scale)[R]) {
#pragma unroll
  for (int r = 0; r < R; ++r) {
    const int row = tile_y() * R + r;
    if (row >= rows) continue;
#pragma unroll
    for (int n = 0; n < columns / 4; ++n)
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const int feature = n * kTile + tile_x() * 4 + k;
        if (feature < features) to[row * row_stride + feature] = sum[r][n * 4 + k] * scale[r];
      }
  }
}

/// The scores of a tile of one head: from products to what the normaliser sees.
struct TileScores {
  const FlashF32Call& call;
  const SequencePlace sequence;
  const int head, pair;

  /// -inf for keys that row i does not take from the pair, or that options hide. Keys from
  /// `first_key`.
  template <int R>
  __device__ void adjust(float (&scores)[R][kCells], std::int64_t first_query,
                         std::int64_t first_key) const {
    const RowProblem<float>& p = call.p;
    const bool general = p.mask.data != nullptr || p.key_padding.data != nullptr ||
                         p.bias.data != nullptr || p.slopes.data != nullptr;
    const int size = R * kSide;
    const bool whole = first_query + size <= sequence.queries &&
                       keys_of(call, sequence, pair, first_query).end >= first_key + kTile &&
                       keys_of(call, sequence, pair, first_query + size - 1).begin <= first_key;
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const std::int64_t i = first_query + tile_y() * R + r;
      int begin = 0, end = kTile;  // keys that the row sees, counted from the tile's first
      if (!whole) {
        const KeyRange keys =
            i < sequence.queries ? keys_of(call, sequence, pair, i) : KeyRange{0, 0};
        begin = static_cast<int>(keys.begin - first_key),
        end = static_cast<int>(keys.end - first_key);
      }
#pragma unroll
      for (int c = 0; c < kCells; ++c) {
        const int j = tile_x() + c * kSide;
        scores[r][c] = j >= begin && j < end ? scores[r][c] * p.scale : -math::kInfinity<float>;
      }
      if (general && i < sequence.queries) {
        const RowScores<float> options(p, sequence, head, i);
#pragma unroll
        for (int c = 0; c < kCells; ++c) {
          const int j = tile_x() + c * kSide;
          if (j >= begin && j < end) scores[r][c] = options(scores[r][c], first_key + j);
        }
      }
    }
  }

  /// Dropout factors of the rows of a warp, to shared memory. Ends with the warp in step.
  template <int R>
  __device__ void store_factors(float* to, std::int64_t first_query, std::int64_t first_key) const {
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const int row = tile_y() * R + r;
      float factors[4];
      dropout_factors(call.p, sequence.index, head, first_query + row, first_key + tile_x() * 4,
                      factors);
      *reinterpret_cast<float4*>(to + row * kScoreStride + tile_x() * 4) =
          make_float4(factors[0], factors[1], factors[2], factors[3]);
    }
    __syncwarp();
  }

  template <int R>
  __device__ __forceinline__ static float stored(const float* scores, int r, int c) {
    return scores[(tile_y() * R + r) * kScoreStride + tile_x() + c * kSide];
  }
};

/// A normaliser's partial row, nothing where it has none.
template <class N, bool = N::row_normalised>
struct PartialRow {
  struct Type {};
};
template <class N>
struct PartialRow<N, true> {
  using Type = typename N::template Partial<float>;
};

}  // namespace quietformer::cuda
