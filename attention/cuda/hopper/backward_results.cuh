// How the sums of backward.cuh leave: dQ, dK, dV, gradients of parameters. See there.
#pragma once

#include "attention/cuda/hopper/backward.cuh"

namespace quietformer::cuda {

template <class S, class N, class T, int dim>
__device__ __forceinline__ void HopperBackward<S, N, T, dim>::add_queries(
    const QueryTile& tile, const QueryGradients& dq) const {
  const bool far = tile.flags & QueryTile::kFar;
  // A group has 64 queries, or all and 64 features.
  if ((tile.flags & QueryTile::kNothing) ||
      (dim == 64 && tile.first_query + group_ * 64 >= call_.queries))
    return;
  constexpr int kBlocks = 2 * (dim / 32);  // 32x32, of a slot
  const std::int64_t slot = tile.slot + (dim == 64 ? group_ : 0);
  const int block = warp_ / 2 * (dim / 32) + (dim == 64 ? 0 : group_ * 2);
  float* const sums = call_.query_sums[far ? S::pairs - 1 : 0] +
                      (slot * kBlocks + block) * kSumBlock + (warp_ % 2 * 4 * 32 + lane_) * 4;
  unsigned* const turns = call_.turns[far ? S::pairs - 1 : 0];
  unsigned* counter = nullptr;
  unsigned turn = 0;
  if (turns != nullptr) {
    // As many blocks come before as there are tiles of keys that the queries see and before mine.
    counter = turns + slot * kBlocks + (dim == 64 ? warp_ : group_ * 4 + warp_);
    const int first_seen = max(tile.first_query + call_.keys - call_.queries -
                                   call_.distances.high[far ? S::pairs - 1 : 0],
                               0);
    turn = static_cast<unsigned>(tile.key_slot - first_seen / kKeys);
    if (lane_ == 0) wait_for_turn(counter, turn);
    __syncwarp();
  }
#pragma unroll
  for (int n = 0; n < 8; ++n) add_four(sums + n / 4 * kSumBlock + n % 4 * 32 * 4, dq[n]);
  if (turns != nullptr) {
    __syncwarp();
    if (lane_ == 0) pass_turn(counter, turn);
  }
}

template <class S, class N, class T, int dim>
__device__ __forceinline__ void HopperBackward<S, N, T, dim>::write_element_sums(
    const QueryTile& tile) {
  const std::uint32_t own = shared_ + Shape::kElementSums + group_ * (4 * 4 * kSums);
#pragma unroll
  for (int k = 0; k < kSums; ++k) {
    float sum = element_sums_[k];
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
      sum += __shfl_xor_sync(0xFFFFFFFFu, sum, distance);
    if (lane_ == 0) store_shared(own + (k * 4 + warp_) * 4, __float_as_uint(sum));
    element_sums_[k] = 0;
  }
  wait_at(kOwnGroup + group_, 128);
  if (warp_ == 0 && lane_ < kSums) {
    float sum = 0;
    for (int w = 0; w < 4; ++w) sum += load_shared(own + (lane_ * 4 + w) * 4);
    const int teams = BackwardTiles::of(dim).teams, far = tile.flags & QueryTile::kFar ? 1 : 0;
    call_
        .element_partials[(((std::int64_t{tile.batch} * call_.heads + tile.head) * call_.key_slots +
                            tile.key_slot) *
                               teams * S::pairs +
                           group_ * S::pairs + far) *
                              kMaxHeadParameters +
                          lane_] = sum;
  }
  wait_at(kOwnGroup + group_, 128);  // or the next head's overtake
}

template <class S, class N, class T, int dim>
__device__ __forceinline__ void HopperBackward<S, N, T, dim>::write_results(const QueryTile& tile,
                                                                            int stage) {
  keep_in_place(keys_), keep_in_place(values_);  // behind the wait for their products
  const bool far = tile.flags & QueryTile::kFar;
  const std::uint32_t own = shared_ + stage * Shape::kKeyBytes + (group_ * 64 + warp_ * 16) * 128;
  // Rows of V: all groups are behind the last dP^T, while some may still read K.
  const std::uint32_t through = own + Shape::kV;
  if (!far && S::pairs == 2) {
    // dV goes on.
  } else if (call_.dv.data != nullptr) {
    write_rows(call_.dv, tile, through, values_, call_.value_dim);
  }
  if (far || S::pairs == 1) clear(values_);
  const RowTensor& dk = call_.dk[far ? S::pairs - 1 : 0];
  if (dk.data != nullptr) {
    if constexpr (kUnit) {
      differentiate_norm(own + Shape::kK);
    } else {
#pragma unroll
      for (auto& block : keys_)
#pragma unroll
        for (float& value : block) value *= call_.scale;
    }
    write_rows(dk, tile, through, keys_, call_.dim);
  }
  clear(keys_);
  fence_before_boxes();
}

/// Sums of unit rows to the gradient of the rows as they are: with y = k / |k| and dy,
/// dk = (dy - y (y.dy)) / |k|.
template <class S, class N, class T, int dim>
__device__ __forceinline__ void HopperBackward<S, N, T, dim>::differentiate_norm(
    std::uint32_t keys) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = r * 8 + lane_ / 4;
    float squares = 0, product = 0;
#pragma unroll
    for (int n = 0; n < dim / 8; ++n) {
      const std::uint32_t word = load_word(chunk_at(keys, row, n) + lane_ % 4 * 4);
      const float low = T::low(word), high = T::high(word);
      squares += low * low;
      squares += high * high;
      product += low * keys_[n][2 * r];
      product += high * keys_[n][2 * r + 1];
    }
#pragma unroll
    for (int distance = 1; distance <= 2; distance *= 2) {
      squares += __shfl_xor_sync(0xFFFFFFFFu, squares, distance);
      product += __shfl_xor_sync(0xFFFFFFFFu, product, distance);
    }
    const float inverse = S::inverse_norm(squares), scale = call_.scale,
                projection = S::projection(scale * product * inverse, squares) * inverse;
#pragma unroll
    for (int n = 0; n < dim / 8; ++n) {
      const std::uint32_t word = load_word(chunk_at(keys, row, n) + lane_ % 4 * 4);
      float &low = keys_[n][2 * r], &high = keys_[n][2 * r + 1];
      low = (scale * low - T::low(word) * projection) * inverse;
      high = (scale * high - T::high(word) * projection) * inverse;
    }
  }
}

/// A warp's 16 rows, through its own of `rows`, so that they leave in whole chunks.
template <class S, class N, class T, int dim>
__device__ __forceinline__ void HopperBackward<S, N, T, dim>::write_rows(const RowTensor& to,
                                                                         const QueryTile& tile,
                                                                         std::uint32_t rows,
                                                                         const Sums& sums,
                                                                         int features) const {
  __syncwarp();
#pragma unroll
  for (int r = 0; r < 2; ++r)
#pragma unroll
    for (int n = 0; n < dim / 8; ++n)
      store_shared(chunk_at(rows, r * 8 + lane_ / 4, n) + lane_ % 4 * 4,
                   T::pack(sums[n][2 * r], sums[n][2 * r + 1]));
  __syncwarp();
  const int first = tile.first_key + group_ * 64 + warp_ * 16;
  std::uint16_t* const start = to.rows(tile.batch, tile.kv_head) + first * to.row;
#pragma unroll 4
  for (int i = lane_; i < 16 * (dim / 8); i += 32) {
    const int row = i / (dim / 8), chunk = i % (dim / 8);
    if (first + row >= call_.keys) continue;
    std::uint32_t words[4];
    load_shared(words, chunk_at(rows, row, chunk));
    write_chunk(to, start + row * to.row, chunk, features, words);
  }
}

}  // namespace quietformer::cuda
