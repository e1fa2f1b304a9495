// The copying warp of the backward for compute capability 9.0: it takes tiles of keys, goes through
// the queries that see them, and keeps the stages of K, V, Q and dO full.
#pragma once

#include <cstring>

#include "attention/cuda/head_parameters.cuh"
#include "attention/cuda/hopper/backward.h"
#include "attention/cuda/hopper/backward_shape.cuh"
#include "attention/cuda/mma.cuh"

namespace quietformer::cuda {

template <class S, class N, int dim>
class HopperBackwardCopies {
  using Shape = HopperBackwardShape<S, N, dim>;
  using Parameters = typename N::template Parameters<float>;
  static constexpr int kKeys = Shape::kKeys, kQueries = Shape::kQueries, kHalves = Shape::kHalves;

 public:
  static __device__ __forceinline__ void run(const HopperBackwardCall& all, std::uint32_t shared) {
    HopperBackwardCopies(all, shared).copy_all();
  }

 private:
  __device__ __forceinline__ HopperBackwardCopies(const HopperBackwardCall& all,
                                                  std::uint32_t shared)
      : all_(all), call_(all.call), shared_(shared), lane_(static_cast<int>(threadIdx.x)) {}

  __device__ __forceinline__ void copy_all() {
    const int kv_heads = call_.heads / call_.group;
#pragma unroll 1
    for (;;) {
      // Whoever is free takes the next tile: causal ones differ in what there is to do, and in
      // deterministic mode a block may wait for those of smaller numbers alone.
      int item = 0;
      if (lane_ == 0) item = static_cast<int>(atomicAdd(call_.ticket, 1u));
      item = __shfl_sync(0xFFFFFFFFu, item, 0);
      if (item >= all_.items) break;
      tile_.key_slot = item % call_.key_slots;
      tile_.kv_head = item / call_.key_slots % kv_heads;
      tile_.batch = item / call_.key_slots / kv_heads;
      tile_.first_key = tile_.key_slot * kKeys;
#pragma unroll 1
      for (int pair = 0; pair < S::pairs; ++pair) copy_tile(pair);
    }
    wait_for(barrier(Shape::q_empty, q_.stage), q_.parity ^ 1);
    tile_.first_query = -1;
    if (lane_ == 0) store_plan({});
    arrive_with_rows();
    if (lane_ == 0) arrive(barrier(Shape::q_full, q_.stage));
  }

  /// A tile of keys of a pair, and the queries that see any of it, from the last to the first.
  __device__ __forceinline__ void copy_tile(int pair) {
    copy_keys(pair);
    const int offset = call_.keys - call_.queries,
              last_key = min(tile_.first_key + kKeys, call_.keys) - 1;
    const int begin = max(tile_.first_key - offset + call_.distances.low[pair], 0),
              end = min(last_key + 1 - offset + call_.distances.high[pair], call_.queries);
    const bool any = end > begin && call_.distances.low[pair] <= call_.distances.high[pair];
    const int first = any ? begin / kQueries : 0, last = any ? (end - 1) / kQueries : 0,
              heads = any ? call_.group : 1,
              common = (pair == 0 ? 0 : QueryTile::kFar) | (any ? 0 : QueryTile::kNothing);
#pragma unroll 1
    for (int h = 0; h < heads; ++h) {
      tile_.head = tile_.kv_head * call_.group + h;
      const auto parameters = load_parameters<N, float>(call_, tile_.head);
#pragma unroll 1
      for (int tile = last; tile >= first; --tile) {
        tile_.first_query = tile * kQueries;
        tile_.slot =
            (tile_.batch * call_.heads + tile_.head) * call_.query_slots + tile_.first_query / 64;
        tile_.flags = common | (h == 0 && tile == last ? QueryTile::kFirst : 0) |
                      (tile == first ? QueryTile::kLastOfHead : 0) |
                      (h == heads - 1 && tile == first ? QueryTile::kLast : 0);
        copy_queries(pair, parameters);
      }
    }
    k_.next();
  }

  __device__ __forceinline__ void copy_keys(int pair) const {
    wait_for(barrier(Shape::k_empty, k_.stage), k_.parity ^ 1);
    if (lane_ != 0) return;
    const std::uint32_t full = barrier(Shape::k_full, k_.stage);
    arrive_expecting(full, 2 * Shape::kKeyBytes);
    for (int half = 0; half < kHalves; ++half)
      copy_box(shared_ + Shape::kK + k_.stage * Shape::kKeyBytes + half * kKeys * 128, all_.k[pair],
               half * 64, tile_.first_key, tile_.kv_head, tile_.batch, full);
    for (int half = 0; half < kHalves; ++half)
      copy_box(shared_ + Shape::kV + k_.stage * Shape::kKeyBytes + half * kKeys * 128, all_.v,
               half * 64, tile_.first_key, tile_.kv_head, tile_.batch, full);
  }

  __device__ __forceinline__ void copy_queries(int pair, const Parameters& parameters) {
    wait_for(barrier(Shape::q_empty, q_.stage), q_.parity ^ 1);
    __syncwarp();  // the lanes go round the ring together
    copy_rows();
    if (lane_ == 0) {
      store_plan(parameters);
      copy_boxes(Shape::kQ, all_.q[pair], Shape::q_full);
    }
    arrive_with_rows();
    wait_for(barrier(Shape::out_empty, q_.stage), q_.parity ^ 1);
    if (lane_ == 0) copy_boxes(Shape::kOut, all_.d_out, Shape::out_full);
    q_.next();
  }

  __device__ __forceinline__ void copy_boxes(int to, const TensorMap& map,
                                             typename Shape::Barrier which) const {
    const std::uint32_t full = barrier(which, q_.stage);
    arrive_expecting(full, Shape::kQueryBytes);
    for (int half = 0; half < kHalves; ++half)
      copy_box(shared_ + to + q_.stage * Shape::kQueryBytes + half * kQueries * 128, map, half * 64,
               tile_.first_query, tile_.head, tile_.batch, full);
  }

  /// What belongs to rows, 0 where there is no row.
  __device__ __forceinline__ void copy_rows() const {
    const std::int64_t first =
        (std::int64_t{tile_.batch} * call_.heads + tile_.head) * call_.queries + tile_.first_query;
#pragma unroll 1
    for (int i = lane_; i < kQueries; i += 32) {
      const bool present = tile_.first_query + i < call_.queries;
      const std::int64_t row = first + (present ? i : 0);
      const std::uint32_t to = Shape::rows(shared_, q_.stage) + i * 4;
      if constexpr (Shape::kHasState) copy_4(to, call_.row_state + row, present);
      if constexpr (Shape::kHasDelta) copy_4(to + Shape::kDelta, call_.delta + row, present);
      // Never 0, where a hidden score is infinite: behind the last query some other's norm.
      if constexpr (Shape::kUnit) copy_4(to + Shape::kNorm, call_.inverse_q + row, true);
    }
  }
  __device__ __forceinline__ void arrive_with_rows() const {
    if constexpr (Shape::kConstants > 0) arrive_with_copies(barrier(Shape::q_full, q_.stage));
  }

  __device__ __forceinline__ void store_plan(const Parameters& parameters) const {
    static_assert(sizeof(QueryTile) == Shape::kParameters && sizeof(Parameters) <= 16);
    const std::uint32_t to = Shape::plan(shared_, q_.stage);
    std::uint32_t words[3][4] = {};
    memcpy(words, &tile_, sizeof(tile_));
    memcpy(words[2], &parameters, sizeof(parameters));
#pragma unroll
    for (int i = 0; i < 3; ++i) store_shared(to + i * 16, words[i]);
  }

  __device__ __forceinline__ std::uint32_t barrier(typename Shape::Barrier which, int stage) const {
    return Shape::barrier(shared_, which, stage);
  }

  const HopperBackwardCall& all_;
  const FlashBackwardCall& call_;
  const std::uint32_t shared_;
  const int lane_;
  Ring<Shape::kStages> k_, q_;
  QueryTile tile_{};
};

}  // namespace quietformer::cuda
