// Forward of `flash` for compute capability 9.0. A block is a warpgroup that copies and two (three
// for heads of up to 64 features) that compute, each 64 query rows of a tile, over tiles of 128
// keys; it stays on its multiprocessor and takes tile after tile of queries (Tiles), so that copies
// for the next one start while the last one finishes.
//
//   the copying warp             a computing warpgroup
//     for tiles of queries         for tiles of queries
//       wait until Q is free         wait for Q
//       start Q                      S = Q K^T of the first keys, and their weights
//       for tiles of keys            for the other tiles of keys
//         wait until K is free         start S = Q K^T
//         start K                      start O += P V of the keys before
//         wait until V is free         wait for S; K is free
//         start V                      weights of S, while P V is computed
//                                      wait for P V; V is free
//                                      O * factor where the maximum has risen; P = weights
//                                    O += P V of the last
//                                    O * scale to the place of Q, from where TMA takes it
//                                    statistics; Q is free behind the first products of the next
//
// A score of two pairs has Q of the near and of the far keys, which come and are free one by one:
// near keys are first.
//
// copies.cuh has the copying warp, scores.cuh what happens between the two products.
//
// P stays in registers: fragments of C are fragments of A. Hidden keys, row state and weights are
// those of the portable kernel (flash_forward.cuh): what it says about visible keys and the two
// pairs of a score holds here. A row's reference follows its maximum once that is e^8 above it:
// rescaling O is rare, and f16 holds e^8.
//
// Sources: Shah et al., FlashAttention-3, arXiv 2407.08608 (warpgroups with roles, weights under
// the products of the tile before); PTX ISA, wgmma, cp.async.bulk.tensor, mbarrier.
#pragma once

#include <cstring>

#include "attention/cuda/hopper/copies.cuh"
#include "attention/cuda/hopper/scores.cuh"
#include "attention/cuda/hopper/wgmma.cuh"

namespace quietformer::cuda {

template <class S, class N, class T, int dim>
class HopperForward : HopperScores<S, N, T, dim> {
  static_assert(!N::row_normalised || !N::weights_need_final_row);
  using Base = HopperScores<S, N, T, dim>;
  using Base::kHidden, Base::kKeys, Base::kUnit;
  using Base::lane_, Base::group_, Base::warp_, Base::call_, Base::head_, Base::batch_,
      Base::first_row_, Base::begin_, Base::end_, Base::all_begin_, Base::all_end_,
      Base::parameters_, Base::row_scale_, Base::partial_, Base::factor_;
  using Base::of_pair, Base::clear_rows, Base::pack, Base::scale_columns, Base::stay_behind_weights,
      Base::weigh_tile;
  using typename Base::KeyTilesOf;
  using typename Base::Partial;
  using typename Base::Row;
  using typename Base::Scores;
  using typename Base::Shape;
  using typename Base::Weights;
  static constexpr int kHalves = Shape::kHalves;

 public:
  static __device__ __forceinline__ void run(const HopperForwardCall& all, std::uint32_t shared) {
    if (threadIdx.x == 0) {
      const int computing = Shape::kGroups * 4;  // warps
      for (int stage = 0; stage < Shape::kQueryStages; ++stage) {
        for (int pair = 0; pair < S::pairs; ++pair) {
          start_barrier(Shape::q_full(shared, stage, pair), pair == 0 ? 32 : 1);
          start_barrier(Shape::q_empty(shared, stage, pair), computing * 32);
        }
      }
      for (int stage = 0; stage < Shape::kKeyStages; ++stage) {
        start_barrier(Shape::k_full(shared, stage), 1);
        start_barrier(Shape::k_empty(shared, stage), computing);
        start_barrier(Shape::v_full(shared, stage), 1);
        start_barrier(Shape::v_empty(shared, stage), computing);
      }
      fence_barriers();
    }
    __syncthreads();
    if (threadIdx.x < 128) {
      keep_registers<Shape::kCopyRegisters>();
      if (threadIdx.x < 32) HopperCopies<S, N, dim>::run(all, shared);
    } else {
      take_registers<Shape::kRegisters>();
      HopperForward(all, shared).compute_all();
    }
  }

 private:
  __device__ __forceinline__ HopperForward(const HopperForwardCall& all, std::uint32_t shared)
      : Base(all.call), all_(all), shared_(shared) {}

  __device__ __forceinline__ void compute_all() {
#pragma unroll 1
    for (;; q_.next()) {
      wait_for(Shape::q_full(shared_, q_.stage, 0), q_.parity);
      const std::uint32_t at = Shape::plan(shared_, q_.stage);
      std::uint32_t words[4];
      load_shared(words, at);
      const int tile = static_cast<int>(words[0]);
      if (tile < 0) break;
      head_ = static_cast<int>(words[1]), batch_ = static_cast<int>(words[2]);
      first_row_ = tile * Shape::kRows + group_ * 64 + warp_ * 16;
      load_shared(words, at + Shape::kParameters);
      memcpy(&parameters_, words, sizeof(parameters_));
#pragma unroll
      for (int pair = 0; pair < S::pairs; ++pair) {
        load_shared(words, at + Shape::kReaches + (group_ * S::pairs + pair) * 16);
        begin_[pair] = static_cast<int>(words[0]), end_[pair] = static_cast<int>(words[1]);
        all_begin_[pair] = static_cast<int>(words[2]), all_end_[pair] = static_cast<int>(words[3]);
      }
      load_shared(words, at + 16);
      const TilePlan plan{tile,
                          head_,
                          batch_,
                          0,
                          {static_cast<int>(words[0]), static_cast<int>(words[1])},
                          {static_cast<int>(words[2]), static_cast<int>(words[3])}};
#pragma unroll
      for (auto& block : o_)
#pragma unroll
        for (float& value : block) value = 0;
      clear_rows();
      near_done_ = far_ = false;
      queries_ = shared_ + Shape::kQ + q_.stage * S::pairs * Shape::kQueryBytes +
                 group_ * Shape::kGroupBytes;
      if constexpr (kUnit) load_row_scales();
      add_keys(KeyTilesOf(plan));
      if (S::pairs == 2 && !far_) turn_to_far();
      finish();
    }
    release_stored();
  }

  /// Waits for the queries of the far pair, where the output will pass, too.
  __device__ __forceinline__ void turn_to_far() {
    far_ = true;
    if (!near_done_) arrive(Shape::q_empty(shared_, q_.stage, 0));
    release_stored();
    wait_for(Shape::q_full(shared_, q_.stage, S::pairs - 1), q_.parity);
  }

  __device__ __forceinline__ void load_row_scales() {
    // Two lanes a row, half of its chunks each.
    const int row = warp_ * 16 + lane_ / 2;
    float sum = 0;
#pragma unroll
    for (int i = 0; i < dim / 16; ++i) {
      const int chunk = lane_ % 2 * (dim / 16) + i;
      std::uint32_t words[4];
      load_shared(words, query_chunk(row, chunk));
#pragma unroll
      for (const std::uint32_t word : words) {
        sum += T::low(word) * T::low(word);
        sum += T::high(word) * T::high(word);
      }
    }
    sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 1);
    const float inverse = call_.scale * S::inverse_norm(sum);
#pragma unroll
    for (int r = 0; r < 2; ++r)
      row_scale_[r] = __shfl_sync(0xFFFFFFFFu, inverse, (r * 8 + lane_ / 4) * 2);
  }

  /// Of this group's rows of Q in shared memory, 16 bytes.
  __device__ __forceinline__ std::uint32_t query_chunk(int row, int chunk) const {
    return queries_ + static_cast<std::uint32_t>(chunk / 8 * (64 * 128) + row * 128 +
                                                 ((chunk ^ row) & 7) * 16);
  }

  __device__ __forceinline__ void add_keys(KeyTilesOf keys) {
    if (!next(keys, false)) return;
    Scores s;
    Weights p;
    typename Shape::KeyRing v = kv_;  // of the tile whose weights are P
    start_scores(s, keys.pair);
    release_stored();
    wait_for_products<0>();
    keep_in_place(s);
    free_keys(s, keys);
    weigh_tile(s, keys);
    pack(p, s);
#pragma unroll 1
    while (next(keys, true)) {
      const typename Shape::KeyRing now = kv_;
      start_scores(s, keys.pair);
      start_values(p, v);
      wait_for_products<1>();
      keep_in_place(s);
      free_keys(s, keys);
      const bool rescale = weigh_tile(s, keys);
      keep_in_place(s);
      stay_behind_weights(s);
      wait_for_products<0>();
      keep_in_place(o_);
      release(Shape::v_empty(shared_, v.stage));
      if constexpr (Shape::kValuesLag)
        for (v.next(); v != now; v.next()) pass_values(v);
      v = now;
      if (rescale) rescale_output();
      pack(p, s);
    }
    start_values(p, v);
    wait_for_products<0>();
    keep_in_place(o_);
    release(Shape::v_empty(shared_, v.stage));
    if constexpr (Shape::kValuesLag)
      for (v.next(); v != kv_; v.next()) pass_values(v);
  }

  /// Moves on to a tile that some row of the group sees. Others are given back as they come: not
  /// before, or an arrival would count for the round before. Where the stages do not suffice, their
  /// values are, as long as V of a tile is still `wanted`, behind it.
  __device__ __forceinline__ bool next(KeyTilesOf& keys, bool wanted) {
    while (keys.next()) {
      if (keys.first < of_pair(end_, keys) && keys.first + kKeys > of_pair(begin_, keys))
        return true;
      // Its keys may come behind queries that go where this lane's output still is.
      release_stored();
      wait_for(Shape::k_full(shared_, kv_.stage), kv_.parity);
      __syncwarp();
      release(Shape::k_empty(shared_, kv_.stage));
      if (!Shape::kValuesLag || !wanted) pass_values(kv_);
      kv_.next();
    }
    return false;
  }
  __device__ __forceinline__ void pass_values(const typename Shape::KeyRing& v) const {
    wait_for(Shape::v_full(shared_, v.stage), v.parity);
    __syncwarp();
    release(Shape::v_empty(shared_, v.stage));
  }

  __device__ __forceinline__ void release(std::uint32_t barrier) const {
    if (lane_ == 0) arrive(barrier);
  }

  /// S = Q K^T of the stage that kv_ names.
  __device__ __forceinline__ void start_scores(Scores& s, int pair) {
    if (S::pairs == 2 && pair == 1 && !far_) turn_to_far();
    wait_for(Shape::k_full(shared_, kv_.stage), kv_.parity);
    const std::uint32_t keys = shared_ + Shape::kK + kv_.stage * Shape::kKeyBytes;
    const std::uint32_t a = tile_descriptor(queries_ + pair * Shape::kQueryBytes),
                        b = tile_descriptor(keys);
    fence_products();
#pragma unroll
    for (int half = 0; half < kHalves; ++half)
#pragma unroll
      for (int k = 0; k < 4; ++k)
        Warpgroup<T>::multiply(s, a + (half * (64 * 128) + k * 32) / 16,
                               b + (half * (kKeys * 128) + k * 32) / 16, half + k);
    commit_products();
  }

  /// O += P V.
  __device__ __forceinline__ void start_values(const Weights& p, const typename Shape::KeyRing& v) {
    wait_for(Shape::v_full(shared_, v.stage), v.parity);
    const std::uint32_t b =
        tile_descriptor(shared_ + Shape::kV + v.stage * Shape::kKeyBytes, kKeys * 128);
    fence_products();
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) Warpgroup<T>::add(o_, p[k], b + k * (16 * 128) / 16);
    commit_products();
  }

  /// Of finished products, whose keys nobody in the warp reads any more; behind the last of the
  /// near pair neither its queries, so that those of the next tile come early.
  __device__ __forceinline__ void free_keys(Scores& s, const KeyTilesOf& keys) {
    if constexpr (kUnit) scale_columns(s, shared_ + Shape::kNorms + kv_.stage * Shape::kNormBytes);
    release(Shape::k_empty(shared_, kv_.stage));
    if (S::pairs == 2 && keys.pair == 0 && keys.first + kKeys >= end_[0]) {
      near_done_ = true;
      arrive(Shape::q_empty(shared_, q_.stage, 0));
    }
    kv_.next();
  }

  __device__ __forceinline__ void rescale_output() {
#pragma unroll
    for (auto& block : o_) {
      block[0] *= factor_[0], block[1] *= factor_[0];
      block[2] *= factor_[1], block[3] *= factor_[1];
    }
  }

  // --- results ---

  __device__ __forceinline__ void finish() {
    float scale[2] = {1, 1};
    if constexpr (N::row_normalised) {
      // Lanes 0 and 1 of the four that share rows see to a row each.
      float sum = 0, reference = kHidden;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float row_sum = N::term_sum(partial_[r]);
        row_sum += __shfl_xor_sync(0xFFFFFFFFu, row_sum, 1);
        row_sum += __shfl_xor_sync(0xFFFFFFFFu, row_sum, 2);
        const bool mine = lane_ % 4 == r;
        sum = mine ? row_sum : sum;
        reference = mine ? N::reference(partial_[r]) : reference;
      }
      Partial own = N::prepared(reference);
      N::add(own, sum);
      const float own_scale = N::scale(own, parameters_);
#pragma unroll
      for (int r = 0; r < 2; ++r) scale[r] = __shfl_sync(0xFFFFFFFFu, own_scale, lane_ / 4 * 4 + r);
      write_output(scale);
      if (lane_ % 4 < 2) write_row(first_row_ + lane_ % 4 * 8 + lane_ / 4, own, sum * own_scale);
    } else {
      write_output(scale);
    }
  }

  __device__ __forceinline__ void write_row(int i, const Partial& partial, float row_sum) const {
    if (i >= call_.queries) return;
    const std::int64_t at = (std::int64_t{batch_} * call_.heads + head_) * call_.queries + i;
    const Row row = N::finish(partial, parameters_);
    if (call_.row_sum != nullptr) call_.row_sum[at] = row_sum;
    if (call_.row_state != nullptr) call_.row_state[at] = N::saved(row);
    if (call_.lse == nullptr && call_.lse_scores == nullptr && call_.sink_mass == nullptr) return;
    const RowOutputs<float> outputs = N::outputs(partial, row, parameters_);
    if (call_.lse != nullptr) call_.lse[at] = outputs.lse;
    if (call_.lse_scores != nullptr) call_.lse_scores[at] = outputs.lse_scores;
    if (call_.sink_mass != nullptr) call_.sink_mass[at] = outputs.sink_mass;
  }

  /// Through the warp's rows of Q of the last pair, which all products of the group are done with.
  __device__ __forceinline__ void write_output(const float (&scale)[2]) {
    release_stored();
    const std::uint32_t rows = queries_ + (S::pairs - 1) * Shape::kQueryBytes + warp_ * (16 * 128);
    // Matrices: rows 0 and 8, of features 0 and 8.
    const int row = lane_ / 8 % 2 * 8 + lane_ % 8, chunk = lane_ / 16;
#pragma unroll
    for (int n = 0; n < dim / 8; n += 2) {
      std::uint32_t words[4];
#pragma unroll
      for (int i = 0; i < 4; ++i)
        words[i] = T::pack(o_[n + i / 2][i % 2 * 2] * scale[i % 2],
                           o_[n + i / 2][i % 2 * 2 + 1] * scale[i % 2]);
      store_matrices(rows + n / 8 * (64 * 128) + row * 128 + (((n + chunk) ^ row) & 7) * 16, words);
    }
    fence_before_boxes();
    __syncwarp();
    if (lane_ == 0) {
#pragma unroll
      for (int half = 0; half < kHalves; ++half)
        store_box(all_.o, rows + half * (64 * 128), half * 64, first_row_, head_, batch_);
      stored_ = q_.stage;
    } else {
      arrive(Shape::q_empty(shared_, q_.stage, S::pairs - 1));
    }
  }

  /// Gives back rows of Q whose output is on its way: not before TMA has read it, which takes the
  /// time of some products.
  __device__ __forceinline__ void release_stored() {
    if (stored_ < 0) return;
    wait_for_stored();
    arrive(Shape::q_empty(shared_, stored_, S::pairs - 1));
    stored_ = -1;
  }

  const HopperForwardCall& all_;
  const std::uint32_t shared_;
  typename Shape::QueryRing q_;
  typename Shape::KeyRing kv_;
  std::uint32_t queries_;  // the group's rows of Q in shared memory
  bool near_done_, far_;   // queries of the near pair are given back; those of the far one are here
  int stored_ = -1;        // lane 0: the stage of Q whose output TMA has not read yet
  float o_[dim / 8][4];
};

template <class S, class N, class T, int dim>
__global__ void __launch_bounds__(HopperShape<S, dim>::kThreads, 1)
    hopper_forward_kernel(const __grid_constant__ HopperForwardCall call) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) unsigned char shared[];
  HopperForward<S, N, T, dim>::run(call, shared_address(shared));
#endif
}

}  // namespace quietformer::cuda
