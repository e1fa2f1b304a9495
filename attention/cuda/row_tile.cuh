// Rows of 16-bit features between global and shared memory, and f32 sums in global memory that
// several blocks add to.
#pragma once

#include "attention/cuda/flash_call.h"
#include "attention/cuda/mma.cuh"
#include "attention/cuda/sync.cuh"

namespace quietformer::cuda {

/// Matrices of `dim` 16-bit features in shared memory, row after row, as ldmatrix reads them
/// without bank conflicts: chunk c (16 bytes) of row r lies at c ^ (r % 8). A tile starts at a
/// multiple of a row's size, so XOR of an address with 32 k steps 2 k chunks further.
template <int dim, int threads>
struct RowTile {
  static constexpr int kChunks = dim / 8, kRowBytes = dim * 2;
  static constexpr int kStep = threads / kChunks;  // rows between those of a thread
  static_assert(kStep % 8 == 0, "the swizzle of a thread's rows is the same");

  static __device__ __forceinline__ std::uint32_t at(std::uint32_t tile, int row, int chunk) {
    return tile + static_cast<std::uint32_t>(row * kRowBytes + (chunk ^ (row & 7)) * 16);
  }

  /// All threads of the block together: starts copying `count` rows from `first` on. What lies
  /// outside of `limit` rows and `features` features becomes 0.
  template <int count>
  static __device__ __forceinline__ void copy(std::uint32_t to, const RowTensor& from,
                                              const std::uint16_t* rows, int first, int limit,
                                              int features) {
    static_assert(count % kStep == 0);
    const int thread = static_cast<int>(threadIdx.x), chunk = thread % kChunks,
              row = thread / kChunks;
    to = at(to, row, chunk);
    const std::uint16_t* const start = rows + (first + row) * from.row + chunk * 8;
    const bool inside = chunk * 8 < features;
    if (from.aligned) {
#pragma unroll
      for (int r = 0; r < count; r += kStep)
        copy_16(to + r * kRowBytes, start + r * from.row, inside && first + row + r < limit);
    } else {
#pragma unroll 1
      for (int r = 0; r < count; r += kStep) {
        std::uint32_t words[4] = {};
        if (first + row + r < limit)
#pragma unroll
          for (int i = 0; i < 8; ++i)
            if (chunk * 8 + i < features)
              words[i / 2] |= static_cast<std::uint32_t>(start[r * from.row + i]) << (16 * (i % 2));
        store_shared(to + r * kRowBytes, words);
      }
    }
  }
};

/// Writes the 8 features of a chunk to a row; those from `features` on do not exist.
__device__ __forceinline__ void write_chunk(const RowTensor& to, std::uint16_t* row, int chunk,
                                            int features, const std::uint32_t (&words)[4]) {
  if (to.aligned) {
    if (chunk * 8 < features)
      *reinterpret_cast<uint4*>(row + chunk * 8) =
          make_uint4(words[0], words[1], words[2], words[3]);
  } else {
#pragma unroll
    for (int f = 0; f < 8; ++f)
      if (chunk * 8 + f < features)
        row[chunk * 8 + f] = static_cast<std::uint16_t>(words[f / 2] >> (16 * (f % 2)));
  }
}

/// The same 8 features read; 0 for those that do not exist.
__device__ __forceinline__ void read_chunk(std::uint32_t (&words)[4], const RowTensor& from,
                                           const std::uint16_t* row, int chunk, int features) {
#pragma unroll
  for (std::uint32_t& word : words) word = 0;
  if (from.aligned) {
    if (chunk * 8 >= features) return;
    const uint4 all = *reinterpret_cast<const uint4*>(row + chunk * 8);
    words[0] = all.x, words[1] = all.y, words[2] = all.z, words[3] = all.w;
  } else {
#pragma unroll
    for (int f = 0; f < 8; ++f)
      if (chunk * 8 + f < features)
        words[f / 2] |= static_cast<std::uint32_t>(row[chunk * 8 + f]) << (16 * (f % 2));
  }
}

// --- f32 sums of 32x32 blocks in global memory, in an order that suits the fragments ---

inline constexpr int kSumBlock = 32 * 32;

/// Adds a lane's fragments, c[m][n] of rows 16 m and columns 8 n, to a block. sm_90 adds 16 bytes
/// at a time; before, a warp's additions are to neighbours.
__device__ __forceinline__ void add_to_block(float* block, const float (&c)[2][4][4], int lane) {
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      const float(&x)[4] = c[m][n];
      if constexpr (kAddsFour) {
        add_four(block + ((m * 4 + n) * 32 + lane) * 4, x);
      } else {
#pragma unroll
        for (int e = 0; e < 4; ++e) atomicAdd(block + ((m * 4 + n) * 4 + e) * 32 + lane, x[e]);
      }
    }
}

/// Columns 8 n to 8 n + 7 of rows 16 m + g and 16 m + g + 8 of a block.
__device__ __forceinline__ void read_from_block(float (&rows)[2][8], const float* block, int m,
                                                int n, int g) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (kAddsFour) {  // lane t of the row, element e of its fragment
      const float4 x = *reinterpret_cast<const float4*>(block + ((m * 4 + n) * 32 + g * 4 + i) * 4);
      rows[0][2 * i] = x.x, rows[0][2 * i + 1] = x.y;
      rows[1][2 * i] = x.z, rows[1][2 * i + 1] = x.w;
    } else {  // element e, lanes t = 0 to 3
      const float4 x = *reinterpret_cast<const float4*>(block + ((m * 4 + n) * 4 + i) * 32 + g * 4);
      float(&row)[8] = rows[i / 2];
      row[i % 2] = x.x, row[2 + i % 2] = x.y, row[4 + i % 2] = x.z, row[6 + i % 2] = x.w;
    }
  }
}

}  // namespace quietformer::cuda
