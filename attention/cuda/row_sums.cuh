// Rows of 16-bit features in global memory, chunk by chunk, and f32 sums there that several blocks
// add to.
#pragma once

#include "attention/cuda/flash_call.h"
#include "attention/cuda/sync.cuh"

namespace quietformer::cuda {

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
