// The copying warp of the forward for compute capability 9.0: it plans tiles of queries and keeps
// the stages of Q, K and V full.
#pragma once

#include <cstring>

#include "attention/cuda/head_parameters.cuh"
#include "attention/cuda/hopper/copy.cuh"
#include "attention/cuda/hopper/shape.cuh"
#include "attention/cuda/hopper/tiles.cuh"

namespace quietformer::cuda {

template <class S, class N, int dim>
class HopperCopies {
  using Shape = HopperShape<S, dim>;
  using KeyTilesOf = KeyTiles<S, Shape::kKeys>;
  using Parameters = typename N::template Parameters<float>;
  static constexpr bool kUnit = Shape::kUnit;
  static constexpr int kKeys = Shape::kKeys, kHalves = Shape::kHalves;

 public:
  static __device__ __forceinline__ void run(const HopperForwardCall& all, std::uint32_t shared) {
    const FlashForwardCall& call = all.call;
    const int kv_heads = call.heads / call.group;
    const bool leader = threadIdx.x == 0;
    typename Shape::QueryRing q;
    typename Shape::KeyRing k_ring, v_ring;
#pragma unroll 1
    for (Tiles tiles(all); tiles.next(all);) {
      wait_for(Shape::q_empty(shared, q.stage, 0), q.parity ^ 1);
      const TilePlan plan = plan_tile(all, tiles, Shape::plan(shared, q.stage));
      copy_queries(all, shared, plan, q.stage, 0);
      const int kv_head = plan.head / call.group;
      const float* const norms =
          call.key_norms + (std::int64_t{plan.batch} * kv_heads + kv_head) * norm_stride(call.keys);
      int pair = 0;  // whose queries are under way
      const auto follow = [&](int to) {
        if (S::pairs == 1 || pair == to) return;
        pair = to;
        wait_for(Shape::q_empty(shared, q.stage, pair), q.parity ^ 1);
        copy_queries(all, shared, plan, q.stage, pair);
      };
      const auto copy_values = [&](int first) {
        const std::uint32_t v = shared + Shape::kV + v_ring.stage * Shape::kKeyBytes,
                            full = Shape::v_full(shared, v_ring.stage);
        wait_for(Shape::v_empty(shared, v_ring.stage), v_ring.parity ^ 1);
        if (leader) {
          arrive_expecting(full, Shape::kKeyBytes);
          for (int half = 0; half < kHalves; ++half)
            copy_box(v + half * kKeys * 128, all.v, half * 64, first, kv_head, plan.batch, full);
        }
        v_ring.next();
      };
      int before = -1;  // the tile whose V has not come yet
#pragma unroll 1
      for (KeyTilesOf keys(plan); keys.next(); k_ring.next()) {
        follow(keys.pair);
        const std::uint32_t k = shared + Shape::kK + k_ring.stage * Shape::kKeyBytes,
                            full = Shape::k_full(shared, k_ring.stage);
        wait_for(Shape::k_empty(shared, k_ring.stage), k_ring.parity ^ 1);
        if (leader) {
          arrive_expecting(full, Shape::kKeyBytes + Shape::kNormBytes);
          for (int half = 0; half < kHalves; ++half)
            copy_box(k + half * kKeys * 128, all.k[keys.pair], half * 64, keys.first, kv_head,
                     plan.batch, full);
          if constexpr (kUnit)
            copy_bytes(shared + Shape::kNorms + k_ring.stage * Shape::kNormBytes,
                       norms + keys.first, Shape::kNormBytes, full);
        }
        if (!Shape::kValuesLag) {
          copy_values(keys.first);
          continue;
        }
        if (before >= 0) copy_values(before);
        before = keys.first;
      }
      if (before >= 0) copy_values(before);
      // Nobody reads queries of the far pair when there are no keys for them, but the output leaves
      // through their place.
      if (S::pairs == 2 && pair == 0) {
        wait_for(Shape::q_empty(shared, q.stage, 1), q.parity ^ 1);
        if (leader) arrive(Shape::q_full(shared, q.stage, 1));
      }
      q.next();
    }
    wait_for(Shape::q_empty(shared, q.stage, 0), q.parity ^ 1);
    if (leader) store_plan(Shape::plan(shared, q.stage), {-1, 0, 0, 0, {}, {}});
    arrive(Shape::q_full(shared, q.stage, 0));
  }

 private:
  /// Those of a pair, and with the first what was planned: all lanes wrote of it.
  static __device__ __forceinline__ void copy_queries(const HopperForwardCall& all,
                                                      std::uint32_t shared, const TilePlan& plan,
                                                      int stage, int pair) {
    const std::uint32_t full = Shape::q_full(shared, stage, pair);
    if (threadIdx.x != 0) {
      if (pair == 0) arrive(full);
      return;
    }
    arrive_expecting(full, Shape::kQueryBytes);
    std::uint32_t to = shared + Shape::kQ + (stage * S::pairs + pair) * Shape::kQueryBytes;
#pragma unroll 1
    for (int group = 0; group < Shape::kGroups; ++group)
      for (int half = 0; half < kHalves; ++half, to += 64 * 128)
        copy_box(to, all.q[pair], half * 64, plan.tile * Shape::kRows + group * 64, plan.head,
                 plan.batch, full);
  }

  /// Plans a tile of queries for everybody: lanes compute what groups would compute one by one.
  static __device__ __forceinline__ TilePlan plan_tile(const HopperForwardCall& all,
                                                       const Tiles& tiles, std::uint32_t to) {
    const FlashForwardCall& call = all.call;
    const int lane = static_cast<int>(threadIdx.x), first_row = tiles.tile * Shape::kRows;
    constexpr int kParts = Shape::kGroups * S::pairs;
    static_assert(kParts <= 16);
    const bool group = lane < 16;  // lanes 16 and 17: all rows
    const int pair = lane % S::pairs;
    const Reach reach = Reach::of(call, pair, first_row + (group ? lane / S::pairs * 64 : 0),
                                  group ? 64 : Shape::kRows);
    if (lane < kParts)
      store_shared(to + Shape::kReaches + lane * 16, {word(reach.begin), word(reach.end),
                                                      word(reach.all_begin), word(reach.all_end)});
    TilePlan plan{tiles.tile, tiles.head, tiles.batch, 0, {}, {}};
#pragma unroll
    for (int i = 0; i < S::pairs; ++i) {
      const int begin = __shfl_sync(0xFFFFFFFFu, reach.begin, 16 + i),
                end = __shfl_sync(0xFFFFFFFFu, reach.end, 16 + i);
      plan.begin[i] = begin / kKeys * kKeys;
      plan.end[i] = end > begin ? end : plan.begin[i];
    }
    if (lane == 31) {
      store_plan(to, plan);
      const auto parameters = load_parameters<N, float>(call, tiles.head);
      store_shared(to + Shape::kParameters, words_of(parameters));
    }
    return plan;
  }

  static __device__ __forceinline__ std::uint32_t word(int value) {
    return static_cast<std::uint32_t>(value);
  }
  static __device__ __forceinline__ void store_plan(std::uint32_t to, const TilePlan& plan) {
    store_shared(to, {word(plan.tile), word(plan.head), word(plan.batch), 0});
    store_shared(to + 16,
                 {word(plan.begin[0]), word(plan.begin[1]), word(plan.end[0]), word(plan.end[1])});
  }

  struct Words {
    std::uint32_t word[4];
  };
  static __device__ __forceinline__ Words words_of(const Parameters& parameters) {
    static_assert(sizeof(Parameters) <= 16);
    Words words{};
    memcpy(words.word, &parameters, sizeof(parameters));
    return words;
  }
  static __device__ __forceinline__ void store_shared(std::uint32_t to, const Words& words) {
    cuda::store_shared(to, words.word);
  }
};

}  // namespace quietformer::cuda
