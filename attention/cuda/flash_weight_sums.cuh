// DeltaRule::share_mean in `flash` on a GPU: delta of each row, from sums over the keys that it
// sees, before the tiles of backward. A block of 4 warps owns 64 queries of a head, 16
// per warp, and goes over tiles of 64 keys; the sums of a row meet within its four lanes, so their
// order depends on sizes alone.
#pragma once

#include "attention/cuda/flash_backward_call.h"
#include "attention/cuda/flash_backward_weights.cuh"
#include "attention/cuda/head_parameters.cuh"
#include "attention/cuda/options.cuh"
#include "attention/cuda/tile.cuh"
#include "attention/normalizer/normalizer.h"
#include "attention/score/score.h"

namespace quietformer::cuda {

template <class S, class N, class T, int dim, bool general>
class FlashWeightSums {
  static constexpr bool kUnit = S::operands == Operands::unit_groups;
  static constexpr int kLanes = 32, kWarps = 4, kKeys = 64, kQueries = 16 * kWarps;
  using Row = typename N::template Row<float>;

 public:
  static constexpr int kThreads = kWarps * kLanes;

 private:
  using Shared = SharedRows<dim, kThreads>;
  static constexpr int kTileBytes = kKeys * Shared::kRowBytes;
  static_assert(kKeys == kQueries);
  // Q, dO, K, V.
  static constexpr std::uint32_t kGradientsAt = kTileBytes, kKeysAt = 2 * kTileBytes,
                                 kValuesAt = 3 * kTileBytes;

 public:
  static constexpr int kSharedBytes = 4 * kTileBytes;
  static_assert(kSharedBytes <= BackwardTiles::of(dim).shared_bytes(dim));

  static std::int64_t tiles(const FlashBackwardCall& call) {
    return call.options.tiles(call.queries, kQueries);
  }

  static __device__ __forceinline__ void run(const FlashBackwardCall& call, std::uint32_t shared) {
    const int index = static_cast<int>(blockIdx.x),
              count = static_cast<int>(gridDim.x) / (call.heads * call.batch);
    const FlashSequence sequence =
        FlashSequence::of<general>(call.options, false, kQueries, count - 1 - index % count,
                                   index / count / call.heads, call.queries, call.keys);
    if (sequence.tile * kQueries >= sequence.queries) return;
    FlashWeightSums sums(call, index / count % call.heads, sequence, shared);
#pragma unroll 1
    for (int pair = 0; pair < S::pairs; ++pair) sums.add_pair(pair);
    sums.write();
  }

 private:
  __device__ __forceinline__ FlashWeightSums(const FlashBackwardCall& call, int head,
                                             const FlashSequence& sequence, std::uint32_t shared)
      : call_(call),
        sequence_(sequence),
        shared_(shared),
        lane_(static_cast<int>(threadIdx.x) % kLanes),
        first_(sequence.tile * kQueries),
        warp_first_(first_ + static_cast<int>(threadIdx.x) / kLanes * 16),
        offset_(sequence.keys - sequence.queries),
        head_(head),
        kv_head_(head / call.group),
        head_rows_((std::int64_t{sequence.batch} * call.heads + head) * call.queries +
                   sequence.first_query),
        scores_(call.options, sequence, head),
        dropout_(call.options, sequence, head),
        parameters_(load_parameters<N, float>(call, head)) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int i = row(r);
      if constexpr (N::row_normalised)
        rows_[r] = N::restore(i < sequence_.queries ? call_.row_state[head_rows_ + i] : 0.0f);
    }
  }

  /// Row r of this lane.
  __device__ __forceinline__ int row(int r) const {
    return warp_first_ + r * 8 + lane_ / 4;
  }

  __device__ __forceinline__ void copy(const RowTensor& from, int head, int first_of_all, int first,
                                       std::uint32_t to, int limit, int features) const {
    auto rows =
        Shared::start(from, from.rows(sequence_.batch, head) + first_of_all * from.row, first);
    Shared::template copy<kKeys>(rows, shared_ + to, from, limit, features);
  }

  __device__ __forceinline__ void add_pair(int pair) {
    // Keys that some of the queries see.
    const int last = min(first_ + kQueries, sequence_.queries) - 1;
    const int begin = max(first_ + offset_ - call_.distances.high[pair], 0),
              end = min(last + offset_ - call_.distances.low[pair] + 1, sequence_.keys);
    if (begin >= end || call_.distances.low[pair] > call_.distances.high[pair]) return;
    __syncthreads();  // everybody is done with the tiles of the first pair
    copy(call_.q[pair], head_, sequence_.first_query, first_, 0, sequence_.queries, call_.dim);
    copy(call_.d_out, head_, sequence_.first_query, first_, kGradientsAt, sequence_.queries,
         call_.value_dim);
#pragma unroll 1
    for (int first = begin / kKeys * kKeys; first < end; first += kKeys) {
      __syncthreads();  // with the keys before
      copy(call_.k[pair], kv_head_, sequence_.first_key, first, kKeysAt, sequence_.keys, call_.dim);
      copy(call_.v, kv_head_, sequence_.first_key, first, kValuesAt, sequence_.keys,
           call_.value_dim);
      wait_for_copies();
      __syncthreads();
      add_keys(pair, first);
    }
  }

  __device__ __forceinline__ void add_keys(int pair, int first) {
    const auto own = static_cast<std::uint32_t>((warp_first_ - first_) * Shared::kRowBytes);
    float s[1][kKeys / 8][4], dweights[1][kKeys / 8][4];
    Shared::template multiply<T>(s, shared_ + own, shared_ + kKeysAt);
    Shared::template multiply<T>(dweights, shared_ + kGradientsAt + own, shared_ + kValuesAt);
    float factor[2] = {call_.scale, call_.scale};
    if constexpr (kUnit)
#pragma unroll
      for (int r = 0; r < 2; ++r)
        if (row(r) < sequence_.queries) factor[r] *= call_.inverse_q[head_rows_ + row(r)];
    // Whether all of the warp's queries see all of the keys.
    const bool whole = warp_first_ + 16 <= sequence_.queries && first + kKeys <= sequence_.keys &&
                       warp_first_ + offset_ - (first + kKeys - 1) >= call_.distances.low[pair] &&
                       warp_first_ + 15 + offset_ - first <= call_.distances.high[pair];
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
      std::uint32_t kept = 15;
      if constexpr (general)
        if (dropout_.active()) kept = dropout_.kept(warp_first_, first + n * 8);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int i = row(e / 2), j = first + n * 8 + lane_ % 4 * 2 + e % 2;
        if (!whole && !sees(pair, i, j)) continue;
        float x = s[0][n][e], dweight = dweights[0][n][e];
        if constexpr (kUnit) x *= key_norm(j);
        if constexpr (general) {
          dweight = (kept >> e & 1) != 0 ? dweight * call_.options.kept : 0.0f;
          add(e / 2, element_of<N>(scores_.score(x * factor[e / 2], i, j), dweight, rows_[e / 2],
                                   parameters_));
        } else {
          const float share = weight_of<N>(x, factor[e / 2], rows_[e / 2], parameters_);
          if constexpr (N::clips)
            if (!N::follows(share, parameters_)) dweight = 0;
          add(e / 2, {share, math::kNaN<float>, dweight});
        }
      }
    }
  }

  __device__ __forceinline__ bool sees(int pair, int i, int j) const {
    const int distance = i + offset_ - j;
    return i < sequence_.queries && j < sequence_.keys && distance >= call_.distances.low[pair] &&
           distance <= call_.distances.high[pair];
  }

  __device__ __forceinline__ void add(int r, const Element<float>& element) {
    DeltaSums<float>& sums = sums_[r];
    sums.terms += element.share * N::delta_term(element, rows_[r], parameters_);
    sums.shares += element.share;
  }

  __device__ __forceinline__ float key_norm(int j) const {
    const int kv_heads = call_.heads / call_.group;
    return call_.inverse_k[(std::int64_t{sequence_.batch} * kv_heads + kv_head_) * call_.keys +
                           sequence_.first_key + j];
  }

  __device__ __forceinline__ void write() const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      DeltaSums<float> sums = sums_[r];
#pragma unroll
      for (int distance = 1; distance < 4; distance *= 2) {
        sums.terms += __shfl_xor_sync(0xFFFFFFFFu, sums.terms, distance);
        sums.shares += __shfl_xor_sync(0xFFFFFFFFu, sums.shares, distance);
      }
      if (lane_ % 4 == 0 && row(r) < sequence_.queries)
        call_.delta[head_rows_ + row(r)] = sums.mean();
    }
  }

  const FlashBackwardCall& call_;
  const FlashSequence sequence_;
  const std::uint32_t shared_;
  const int lane_, first_, warp_first_;
  const int offset_;  // position of query 0
  const int head_, kv_head_;
  const std::int64_t head_rows_;  // of query 0 in (B, H, L)
  const ScoreOptions scores_;
  const DropoutOptions dropout_;
  const typename N::template Parameters<float> parameters_;
  Row rows_[2];
  DeltaSums<float> sums_[2];
};

template <class S, class N, class T, int dim, bool general>
__global__ void __launch_bounds__(FlashWeightSums<S, N, T, dim, general>::kThreads)
    flash_weight_sums_kernel(const __grid_constant__ FlashBackwardCall call) {
  extern __shared__ __align__(1024) unsigned char shared[];
  FlashWeightSums<S, N, T, dim, general>::run(call, shared_address(shared));
}

}  // namespace quietformer::cuda
