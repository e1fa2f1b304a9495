// Backward of `flash` for compute capability 9.0. A block is a warpgroup that copies and two that
// compute, each for 64 keys of a tile of 128; it stays on its multiprocessor and takes tile after
// tile of keys, over the tiles of queries that see any of them, from the last to the first.
//
//   the copying warp             a computing warpgroup (S^T of the first queries is there)
//     for tiles of keys            for tiles of queries
//       wait until K, V are free     start dP^T = V dO^T
//       start K, V                   P^T = weights of S^T, while dP^T is computed
//       for tiles of queries         start dV += P^T dO
//         wait until Q is free       wait for dP^T
//         start Q, constants         dS^T = gradients of S^T, while dV is
//         wait until dO is free      dS^T to shared memory; start dK += dS^T Q
//         start dO                   wait for the other group's dS^T
//                                    start dQ = dS K, half of it
//                                    wait for the next Q; start its S^T = K Q^T
//                                    wait for dV, dK, dQ; Q, dO are free
//                                    dQ to sums in global memory, while S^T is computed
//                                    behind the last: dK, dV; K, V are free
//
// Scores are transposed: fragments of C, keys x queries, are the fragments of A of dV and dK, so P
// and dS reach those from registers. dQ sums over keys and takes dS from shared memory, which has
// two places for it: a group that is one tile ahead writes into the other one.
//
//   padded D   queries of a tile   a group's part of dQ
//         64                 128   64 queries
//        128                  64   64 features
//
// Hidden keys, weights and gradients are those of the portable kernel (flash_backward.cuh), and so
// are the sums of dQ and the turns in which blocks add to them in deterministic mode.
//
// backward_copies.cuh has the copying warp, backward_scores.cuh what happens between the products,
// backward_results.cuh how sums leave.
//
// Sources: Shah et al., FlashAttention-3, arXiv 2407.08608 (warpgroups with roles; transposed
// scores); PTX ISA, wgmma, cp.async.bulk.tensor, mbarrier.
#pragma once

#include <cstring>
#include <type_traits>

#include "attention/cuda/hopper/backward_copies.cuh"
#include "attention/cuda/hopper/backward_shape.cuh"
#include "attention/cuda/hopper/wgmma.cuh"
#include "attention/cuda/row_sums.cuh"
#include "attention/cuda/sync.cuh"
#include "core/math.h"

namespace quietformer::cuda {

template <class S, class N, class T, int dim>
class HopperBackward {
  static_assert(!N::clips);
  // Gradients of hidden scores are 0 by what is hidden of dP, where no delta is taken away from it.
  static_assert(!N::has_element_gradients || N::delta_rule == DeltaRule::none);
  using Shape = HopperBackwardShape<S, N, dim>;
  using Row = typename N::template Row<float>;
  using Parameters = typename N::template Parameters<float>;
  static constexpr bool kUnit = Shape::kUnit;
  static constexpr int kKeys = Shape::kKeys, kQueries = Shape::kQueries, kHalves = Shape::kHalves;
  static constexpr int kSums = N::has_element_gradients ? kParameters<N> : 0;
  static constexpr int kBothGroups = 1, kOwnGroup = 2;  // named barriers

  /// s[n]: the group's keys and queries 8 n.
  using Scores = float[kQueries / 8][4];
  using Words = std::uint32_t[kQueries / 16][4];
  using Sums = float[dim / 8][4];
  /// The group's part of dQ, a warp's 16 queries and features 8 n.
  using QueryGradients = float[8][4];

 public:
  static __device__ __forceinline__ void run(const HopperBackwardCall& all, std::uint32_t shared) {
    if (threadIdx.x == 0) {
      const int warps = Shape::kGroups * 4, copying = Shape::kConstants > 0 ? 33 : 1;
      for (int stage = 0; stage < Shape::kStages; ++stage) {
        start_barrier(Shape::barrier(shared, Shape::k_full, stage), 1);
        start_barrier(Shape::barrier(shared, Shape::k_empty, stage), warps);
        start_barrier(Shape::barrier(shared, Shape::q_full, stage), copying);
        start_barrier(Shape::barrier(shared, Shape::q_empty, stage), warps * 32);
        start_barrier(Shape::barrier(shared, Shape::out_full, stage), 1);
        start_barrier(Shape::barrier(shared, Shape::out_empty, stage), warps);
      }
      fence_barriers();
    }
    __syncthreads();
    if (threadIdx.x < 128) {
      keep_registers<Shape::kCopyRegisters>();
      if (threadIdx.x < 32) HopperBackwardCopies<S, N, dim>::run(all, shared);
    } else {
      take_registers<Shape::kRegisters>();
      HopperBackward(all.call, shared).compute_all();
    }
  }

 private:
  __device__ __forceinline__ HopperBackward(const FlashBackwardCall& call, std::uint32_t shared)
      : call_(call),
        shared_(shared),
        lane_(static_cast<int>(threadIdx.x) % 32),
        group_(static_cast<int>(threadIdx.x) / 128 - 1),
        warp_(static_cast<int>(threadIdx.x) / 32 % 4) {}

  __device__ __forceinline__ void compute_all() {
    read_tile();
    if (tile_.first_query < 0) return;
    Scores s;
    start_scores(s);
    wait_for_products<0>();
    keep_in_place(s);
    clear(keys_);
    clear(values_);
#pragma unroll 1
    do {
      const QueryTile now = tile_;
      const Ring<Shape::kStages> q = q_, k = k_;
      Scores dp;
      start_weight_gradients(dp);
      Words p, ds;
      weigh(s);
      pack(p, s);
      start_values(p);
      wait_for_products<1>();
      keep_in_place(dp);
      differentiate(dp, p);
      store_gradients(dp);
      pack_for_keys(ds, dp);
      start_keys(ds);
      wait_at(kBothGroups, 128 * Shape::kGroups);
      QueryGradients dq;
      start_queries(dq);
      wait_for_products<2>();
      q_.next();
      gradients_ ^= 1;
      read_tile();
      start_scores(s);
      wait_for_products<1>();
      keep_in_place(dq);
      arrive(barrier(Shape::q_empty, q.stage));  // every lane has read what belongs to rows
      release(Shape::out_empty, q.stage);
      add_queries(now, dq);
      wait_for_products<0>();
      keep_in_place(s);
      if constexpr (kSums > 0)
        if (now.flags & QueryTile::kLastOfHead) write_element_sums(now);
      if (now.flags & QueryTile::kLast) {
        write_results(now, k.stage);
        release(Shape::k_empty, k.stage);
      }
    } while (tile_.first_query >= 0);
  }

  // --- tiles ---

  /// Waits for the tile of queries that q_ names and, where it is the first, for its keys.
  __device__ __forceinline__ void read_tile() {
    wait_for(barrier(Shape::q_full, q_.stage), q_.parity);
    const std::uint32_t at = Shape::plan(shared_, q_.stage);
    std::uint32_t words[2][4];
    load_shared(words[0], at);
    load_shared(words[1], at + 16);
    memcpy(&tile_, words, sizeof(tile_));
    load_shared(words[0], at + Shape::kParameters);
    memcpy(&parameters_, words[0], sizeof(parameters_));
    if (tile_.first_query < 0 || !(tile_.flags & QueryTile::kFirst)) return;
    k_ = next_k_;
    next_k_.next();
    wait_for(barrier(Shape::k_full, k_.stage), k_.parity);
    if constexpr (kUnit) load_key_norms();
  }

  __device__ __forceinline__ void load_key_norms() {
    const int kv_heads = call_.heads / call_.group;
    const float* const norms =
        call_.inverse_k + (std::int64_t{tile_.batch} * kv_heads + tile_.kv_head) * call_.keys;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int j = own_key() + r * 8;
      key_norm_[r] = j < call_.keys ? norms[j] : 0.0f;
    }
  }

  /// The first of the two keys, 8 apart, that this lane holds.
  __device__ __forceinline__ int own_key() const {
    return tile_.first_key + group_ * 64 + warp_ * 16 + lane_ / 4;
  }

  __device__ __forceinline__ std::uint32_t barrier(typename Shape::Barrier which, int stage) const {
    return Shape::barrier(shared_, which, stage);
  }
  __device__ __forceinline__ void release(typename Shape::Barrier which, int stage) const {
    __syncwarp();
    if (lane_ == 0) arrive(barrier(which, stage));
  }

  template <int n>
  static __device__ __forceinline__ void clear(float (&sums)[n][4]) {
#pragma unroll
    for (auto& block : sums)
#pragma unroll
      for (float& value : block) value = 0;
  }

  // --- products ---

  __device__ __forceinline__ std::uint32_t keys_at(int of) const {
    return shared_ + of + k_.stage * Shape::kKeyBytes;
  }
  __device__ __forceinline__ std::uint32_t queries_at(int of) const {
    return shared_ + of + q_.stage * Shape::kQueryBytes;
  }
  __device__ __forceinline__ std::uint32_t gradients_at() const {
    return shared_ + Shape::kGradients + gradients_ * Shape::kGradientBytes;
  }

  /// The group's rows of K or V times all rows of Q or dO.
  static __device__ __forceinline__ void start_rows(Scores& c, std::uint32_t keys,
                                                    std::uint32_t queries, int group) {
    const std::uint32_t a = tile_descriptor(keys + group * (64 * 128)),
                        b = tile_descriptor(queries);
    fence_products();
#pragma unroll
    for (int half = 0; half < kHalves; ++half)
#pragma unroll
      for (int step = 0; step < 4; ++step)
        Warpgroup<T>::multiply(c, a + (half * (kKeys * 128) + step * 32) / 16,
                               b + (half * (kQueries * 128) + step * 32) / 16, half + step);
    commit_products();
  }
  /// S^T = K Q^T.
  __device__ __forceinline__ void start_scores(Scores& s) const {
    start_rows(s, keys_at(Shape::kK), queries_at(Shape::kQ), group_);
  }
  /// dP^T = V dO^T.
  __device__ __forceinline__ void start_weight_gradients(Scores& dp) const {
    wait_for(barrier(Shape::out_full, q_.stage), q_.parity);
    start_rows(dp, keys_at(Shape::kV), queries_at(Shape::kOut), group_);
  }

  /// sums += words times the rows of Q or dO.
  static __device__ __forceinline__ void start_sums(Sums& sums, const Words& words,
                                                    std::uint32_t queries) {
    const std::uint32_t b = tile_descriptor(queries, kQueries * 128);
    fence_products();
#pragma unroll
    for (int k = 0; k < kQueries / 16; ++k)
      Warpgroup<T>::add(sums, words[k], b + k * (16 * 128) / 16);
    commit_products();
  }
  __device__ __forceinline__ void start_values(const Words& p) {
    start_sums(values_, p, queries_at(Shape::kOut));
  }
  __device__ __forceinline__ void start_keys(const Words& ds) {
    start_sums(keys_, ds, queries_at(Shape::kQ));
  }

  /// dQ = dS K of the group's queries or features.
  __device__ __forceinline__ void start_queries(QueryGradients& dq) const {
    const std::uint32_t part = group_ * (kKeys * 128);
    const std::uint32_t a = tile_descriptor(gradients_at() + (dim == 64 ? part : 0)),
                        b = tile_descriptor(keys_at(Shape::kK) + (dim == 64 ? 0 : part));
    fence_products();
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k)
      Warpgroup<T>::multiply_columns(dq, a + k * (16 * 128) / 16, b + k * (16 * 128) / 16, k);
    commit_products();
  }

  // --- between the products: backward_scores.cuh ---

  /// Scores to weights, in place.
  __device__ __forceinline__ void weigh(Scores& s) const;
  /// Gradients of weights to gradients of scores, in place.
  __device__ __forceinline__ void differentiate(Scores& dp, const Words& p);
  /// Whether some of the warp's keys and of the queries do not see each other; what these hold
  /// becomes `value`.
  __device__ __forceinline__ bool hides() const;
  __device__ __forceinline__ void hide(Scores& s, float value) const;
  static __device__ __forceinline__ void pack(Words& words, const Scores& s);
  /// dS^T for dK; of unit operands times 1/|q|.
  __device__ __forceinline__ void pack_for_keys(Words& words, const Scores& s) const;
  /// dS^T for dQ to shared memory; of unit operands times 1/|k|.
  __device__ __forceinline__ void store_gradients(const Scores& s) const;
  /// A factor 1/|x| that f16 holds times a gradient: the rows shorter than 2^-12 that this touches
  /// are zeros or subnormals of f16.
  static __device__ __forceinline__ float bounded(float inverse_norm) {
    return std::is_same_v<T, F16> ? fminf(inverse_norm, 4096.0f) : inverse_norm;
  }
  /// A constant of queries 8 n + 2 t and the next.
  __device__ __forceinline__ void load_pair(float (&pair)[2], int constant, int n) const {
    load_shared(pair[0], pair[1],
                Shape::rows(shared_, q_.stage) + constant + (n * 8 + lane_ % 4 * 2) * 4);
  }
  __device__ __forceinline__ void load_rows(Row (&rows)[2], int n) const {
    if constexpr (Shape::kHasState) {
      float states[2];
      load_pair(states, 0, n);
      rows[0] = N::restore(states[0]), rows[1] = N::restore(states[1]);
    }
  }

  // --- results: backward_results.cuh ---

  __device__ __forceinline__ void add_queries(const QueryTile& tile,
                                              const QueryGradients& dq) const;
  __device__ __forceinline__ void write_element_sums(const QueryTile& tile);
  /// dK and, behind the last pair, dV; both start again from zero.
  __device__ __forceinline__ void write_results(const QueryTile& tile, int stage);
  __device__ __forceinline__ void differentiate_norm(std::uint32_t keys);
  __device__ __forceinline__ void write_rows(const RowTensor& to, const QueryTile& tile,
                                             std::uint32_t rows, const Sums& sums,
                                             int features) const;
  /// Of the warp's rows of K or V in shared memory, 16 bytes.
  static __device__ __forceinline__ std::uint32_t chunk_at(std::uint32_t rows, int row, int chunk) {
    return rows + static_cast<std::uint32_t>(chunk / 8 * (kKeys * 128) + row * 128 +
                                             ((chunk ^ row) & 7) * 16);
  }

  const FlashBackwardCall& call_;
  const std::uint32_t shared_;
  const int lane_, group_, warp_;
  Ring<Shape::kStages> q_, k_, next_k_;
  int gradients_ = 0;  // which place of dS^T
  QueryTile tile_;
  Parameters parameters_;
  float key_norm_[2];
  float element_sums_[kSums > 0 ? kSums : 1] = {};
  Sums keys_, values_;  // dK and dV
};

}  // namespace quietformer::cuda

#include "attention/cuda/hopper/backward_results.cuh"
#include "attention/cuda/hopper/backward_scores.cuh"

namespace quietformer::cuda {

template <class S, class N, class T, int dim>
__global__ void __launch_bounds__(HopperBackwardShape<S, N, dim>::kThreads, 1)
    hopper_backward_kernel(const __grid_constant__ HopperBackwardCall call) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) unsigned char shared[];
  HopperBackward<S, N, T, dim>::run(call, shared_address(shared));
#endif
}

}  // namespace quietformer::cuda
