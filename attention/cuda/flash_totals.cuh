// total_attention of `flash` on a GPU: the weights of each key summed over the queries, from the
// finished rows. A block of 4 warps owns 64 keys of a query head and goes over tiles of 64 queries,
// 16 per warp; every lane sums its columns, and the warps' sums meet at the end in shared memory,
// so the order of the sums depends on sizes alone.
#pragma once

#include "attention/cuda/head_parameters.cuh"
#include "attention/cuda/options.cuh"
#include "attention/cuda/tile.cuh"
#include "attention/cuda/visible.cuh"
#include "attention/normalizer/normalizer.h"
#include "attention/score/score.h"

namespace quietformer::cuda {

template <class S, class N, class T, int dim>
class FlashTotals {
  static constexpr bool kUnit = S::operands == Operands::unit_groups;
  static constexpr int kLanes = 32, kWarps = 4, kKeys = 64, kQueries = 16 * kWarps;
  using Row = typename N::template Row<float>;

 public:
  static constexpr int kThreads = kWarps * kLanes;

 private:
  using Shared = SharedRows<dim, kThreads>;
  static constexpr int kTileBytes = kKeys * Shared::kRowBytes;
  static_assert(kKeys == kQueries);

 public:
  static constexpr int kSharedBytes = 2 * kTileBytes;

  static std::int64_t tiles(const FlashForwardCall& call) {
    return call.options.tiles(call.keys, kKeys);
  }

  static __device__ __forceinline__ void run(const FlashForwardCall& call, std::uint32_t shared) {
    const int index = static_cast<int>(blockIdx.x),
              count = static_cast<int>(gridDim.x) / (call.heads * call.batch);
    const FlashSequence sequence =
        FlashSequence::of<true>(call.options, true, kKeys, index % count,
                                index / count / call.heads, call.queries, call.keys);
    if (sequence.tile * kKeys >= sequence.keys) return;
    FlashTotals totals(call, index / count % call.heads, sequence, shared);
#pragma unroll 1
    for (int pair = 0; pair < S::pairs; ++pair) totals.add_pair(pair);
    totals.write();
  }

 private:
  __device__ __forceinline__ FlashTotals(const FlashForwardCall& call, int head,
                                         const FlashSequence& sequence, std::uint32_t shared)
      : call_(call),
        sequence_(sequence),
        shared_(shared),
        lane_(static_cast<int>(threadIdx.x) % kLanes),
        warp_(static_cast<int>(threadIdx.x) / kLanes),
        first_(sequence.tile * kKeys),
        head_(head),
        band_(call.band.with_lengths(sequence.queries, sequence.keys)),
        options_(call.options, sequence, head),
        parameters_(load_parameters<N, float>(call, head)) {}

  __device__ __forceinline__ void add_pair(int pair) {
    const KeyRange seeing = band_.queries(first_, min(first_ + kKeys, sequence_.keys));
    const RowTensor &q_rows = call_.q[pair], &k_rows = call_.k[pair];
    const int begin = static_cast<int>(seeing.begin), end = static_cast<int>(seeing.end);
    if (begin >= end) return;
    const auto rows_of = [&](const RowTensor& tensor, int head, int first) {
      return tensor.rows(sequence_.batch, head) + first * tensor.row;
    };
    auto k =
        Shared::start(k_rows, rows_of(k_rows, head_ / call_.group, sequence_.first_key), first_);
    auto q = Shared::start(q_rows, rows_of(q_rows, head_, sequence_.first_query), begin);
    __syncthreads();  // everybody is done with the tiles of the first pair
    Shared::template copy<kKeys>(k, shared_, k_rows, sequence_.keys, call_.dim);
#pragma unroll 1
    for (int first = begin; first < end; first += kQueries) {
      if (first > begin) __syncthreads();  // with the queries before
      Shared::template copy<kQueries>(q, shared_ + kTileBytes, q_rows, sequence_.queries,
                                      call_.dim);
      wait_for_copies();
      __syncthreads();
      add_queries(pair, first + warp_ * 16);
    }
  }

  __device__ __forceinline__ void add_queries(int pair, int first) {
    float s[1][kKeys / 8][4];
    Shared::template multiply<T>(
        s, shared_ + kTileBytes + static_cast<std::uint32_t>(warp_ * 16 * Shared::kRowBytes),
        shared_);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int i = first + r * 8 + lane_ / 4;
      if (i >= sequence_.queries) continue;
      const KeyRange range = VisibleKeys<S>::template of<true>(call_, sequence_, pair, i);
      const std::int64_t row =
          (std::int64_t{sequence_.batch} * call_.heads + head_) * call_.queries +
          sequence_.first_query + i;
      Row state{};
      if constexpr (N::row_normalised) state = N::restore(call_.row_state[row]);
      float scale = call_.negative ? -call_.scale : call_.scale;
      if constexpr (kUnit) scale *= call_.query_norms[row];
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int j = first_ + n * 8 + lane_ % 4 * 2 + e;
          if (j < range.begin || j >= range.end) continue;
          float product = s[0][n][r * 2 + e] * scale;
          if constexpr (kUnit) product *= key_norm(j);
          totals_[n][e] += N::weight(options_.score(product, i, j), state, parameters_);
        }
    }
  }

  __device__ __forceinline__ float key_norm(int j) const {
    const int kv_heads = call_.heads / call_.group;
    return call_
        .key_norms[(std::int64_t{sequence_.batch} * kv_heads + head_ / call_.group) * call_.keys +
                   sequence_.first_key + j];
  }

  __device__ __forceinline__ void write() {
    __syncthreads();  // everybody is done with the tiles
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float sum = totals_[n][e];
#pragma unroll
        for (int distance = 4; distance < kLanes; distance *= 2)
          sum += __shfl_xor_sync(0xFFFFFFFFu, sum, distance);
        if (lane_ / 4 == 0) store_shared(place(warp_, n * 8 + lane_ * 2 + e), __float_as_uint(sum));
      }
    __syncthreads();
    const int j = static_cast<int>(threadIdx.x);
    if (j >= kKeys || first_ + j >= sequence_.keys) return;
    float sum = 0;
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp) sum += load_shared(place(warp, j));
    call_.total_attention[(std::int64_t{sequence_.batch} * call_.heads + head_) * call_.keys +
                          sequence_.first_key + first_ + j] = sum;
  }
  __device__ __forceinline__ std::uint32_t place(int warp, int column) const {
    return shared_ + static_cast<std::uint32_t>((warp * kKeys + column) * 4);
  }

  const FlashForwardCall& call_;
  const FlashSequence sequence_;
  const std::uint32_t shared_;
  const int lane_, warp_, first_, head_;
  const Band band_;
  const ScoreOptions options_;
  const typename N::template Parameters<float> parameters_;
  float totals_[kKeys / 8][2] = {};
};

template <class S, class N, class T, int dim>
__global__ void __launch_bounds__(FlashTotals<S, N, T, dim>::kThreads)
    flash_totals_kernel(const __grid_constant__ FlashForwardCall call) {
  extern __shared__ __align__(1024) unsigned char shared[];
  FlashTotals<S, N, T, dim>::run(call, shared_address(shared));
}

}  // namespace quietformer::cuda
