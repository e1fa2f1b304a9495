// How the sums of flash_backward.cuh leave: dK and dV. See there.
#pragma once

#include "attention/cuda/flash_backward.cuh"

namespace quietformer::cuda {

template <class S, class N, class T, int dim, bool general>
__device__ __forceinline__ void FlashBackward<S, N, T, dim, general>::write_keys(int pair) {
  const RowTensor& dk = call_.dk[pair];
  if (dk.data == nullptr) return;
  if constexpr (kUnit) {
    differentiate_norm();
  } else {
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int n = 0; n < dim / 8; ++n)
#pragma unroll
        for (float& value : sums_[m][n]) value *= call_.scale;
  }
  write_rows(dk, own_rows(0), call_.dim);
}

template <class S, class N, class T, int dim, bool general>
__device__ __forceinline__ void FlashBackward<S, N, T, dim, general>::write_values() {
  if (call_.dv.data == nullptr) return;
  if constexpr (general) {
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int n = 0; n < dim / 8; ++n)
#pragma unroll
        for (float& value : sums_[m][n]) value *= call_.options.kept;
  }
  write_rows(call_.dv, own_rows(kValuesAt), call_.value_dim);
}

template <class S, class N, class T, int dim, bool general>
__device__ __forceinline__ void FlashBackward<S, N, T, dim, general>::differentiate_norm() {
  const std::uint32_t keys = own_rows(0) + static_cast<std::uint32_t>(lane_ % 4 * 4);
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = m * 16 + r * 8 + lane_ / 4;
      float squares = 0, product = 0;
#pragma unroll
      for (int n = 0; n < kChunks; ++n) {
        const std::uint32_t word = load_word(Tile::chunk_address(keys, row, n));
        const float low = T::low(word), high = T::high(word);
        squares += low * low;
        squares += high * high;
        product += low * sums_[m][n][2 * r];
        product += high * sums_[m][n][2 * r + 1];
      }
#pragma unroll
      for (int distance = 1; distance <= 2; distance *= 2) {
        squares += __shfl_xor_sync(0xFFFFFFFFu, squares, distance);
        product += __shfl_xor_sync(0xFFFFFFFFu, product, distance);
      }
      const float inverse = S::inverse_norm(squares), scale = call_.scale,
                  projection = S::projection(scale * product * inverse, squares) * inverse;
#pragma unroll
      for (int n = 0; n < kChunks; ++n) {
        const std::uint32_t word = load_word(Tile::chunk_address(keys, row, n));
        float &low = sums_[m][n][2 * r], &high = sums_[m][n][2 * r + 1];
        low = (scale * low - T::low(word) * projection) * inverse;
        high = (scale * high - T::high(word) * projection) * inverse;
      }
    }
}

template <class S, class N, class T, int dim, bool general>
__device__ __forceinline__ void FlashBackward<S, N, T, dim, general>::write_rows(
    const RowTensor& to, std::uint32_t rows, int features) const {
  __syncwarp();
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int r = 0; r < 2; ++r)
#pragma unroll
      for (int n = 0; n < kChunks; ++n)
        store_shared(Tile::chunk_address(rows, m * 16 + r * 8 + lane_ / 4, n) +
                         static_cast<std::uint32_t>(lane_ % 4 * 4),
                     T::pack(sums_[m][n][2 * r], sums_[m][n][2 * r + 1]));
  __syncwarp();
  const int first = first_key_ + team_ * kWarpKeys;
  std::uint16_t* const start =
      to.rows(sequence_.batch, kv_head_) + (sequence_.first_key + first) * to.row;
#pragma unroll 4
  for (int i = lane_; i < kWarpKeys * kChunks; i += kLanes) {
    const int row = i / kChunks, chunk = i % kChunks;
    if (first + row >= sequence_.keys) continue;
    std::uint32_t words[4];
    load_shared(words, Tile::chunk_address(rows, row, chunk));
    write_chunk(to, start + row * to.row, chunk, features, words);
  }
}

}  // namespace quietformer::cuda
