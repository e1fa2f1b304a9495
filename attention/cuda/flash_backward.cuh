// Backward of `flash` on a GPU: one block per tile of keys of a key head, over the tiles of queries
// that see any of them, of all query heads of the group.
//
//   K, V                     shared memory, once
//   for tiles of queries
//     wait for Q, dO         copied while the tile before was worked on (two stages)
//     weights warps          S^T = K Q^T    P^T = weights     dV += P^T dO
//     gradients warps        dP^T = V dO^T  dS^T = gradients  dK += dS^T Q
//     all                    dQ += dS K of the tile before, to sums in global memory
//   dK, dV
//
// Two warps, a team, share some keys: one makes the weights and dV, the other the gradients of the
// scores and dK. So each has registers for one accumulator of all features (128 of them) and for
// the scores of up to 64 queries, the operands of a product serve large tiles (a warp loads 24 KB
// for 32x64x128, where tiles of 32x32 would load 32 KB), and one kind of product runs while the
// other waits for its exponentials.
//
// Scores are transposed: C fragments of keys x queries are the A fragments of dV and dK, in
// registers. P^T passes through shared memory to the other warp of the team, as the words that the
// product with dO takes, so P has the operand type in both places; dS^T takes its place there, word
// by word, for dQ. The gradients warps make their part of dQ while they would wait for P, the
// weights warps at the end: one barrier of the block per tile.
//
//   padded D   keys of a warp   teams   keys   queries   shared memory   blocks on a multiprocessor
//         64               64       2    128        64           98 KB   2
//        128               32       4    128        64          162 KB   1
//        256               16       4     64        32          145 KB   1
//
// dQ is a sum over blocks. By default they add atomically, whoever comes first. In deterministic
// mode they take turns, in the order of their keys: a warp waits until the blocks before have
// added to its 32x32 block, which costs an eighth to a quarter of the speed (H200). All blocks go
// through the queries from the last to the first, so each follows the one before at the distance of
// one addition, also when causal. Blocks take their place from a counter: whoever waits, waits for
// blocks that run.
//
// Of a normaliser that clips the shares are handed over, which its gradients are made of, with the
// sign of those whose weight does not follow; the weights stay with the warp that makes dV.
//
// flash_backward_weights.cuh, flash_backward_gradients.cuh and flash_backward_results.cuh have what
// the warps do; this file has which tiles, in which order, and where they lie.
//
// Hidden keys get the weight 0, and dS is 0 with it. A score of two pairs runs the loop twice, for
// the queries that see the keys as near and as far; dV goes on, dK starts again.
//
// Sources: Dao, FlashAttention-2, arXiv 2307.08691 (which products, sums of dQ over blocks).
#pragma once

#include <type_traits>

#include "attention/cuda/flash_backward_call.h"
#include "attention/cuda/head_parameters.cuh"
#include "attention/cuda/options.cuh"
#include "attention/cuda/row_sums.cuh"
#include "attention/cuda/sync.cuh"
#include "attention/cuda/tile.cuh"
#include "attention/normalizer/normalizer.h"
#include "attention/score/score.h"
#include "core/math.h"

namespace quietformer::cuda {

template <class S, class N, class T, int dim, bool general>
class FlashBackward {
  static constexpr BackwardTiles kTiles = BackwardTiles::of(dim);
  static constexpr bool kUnit = S::operands == Operands::unit_groups;
  static constexpr int kLanes = 32, kTeams = kTiles.teams, kWarpKeys = kTiles.warp_keys,
                       kKeys = kTiles.keys, kQueries = kTiles.queries;
  static constexpr int kStep = kWarpKeys == 64 ? 32 : kQueries;  // queries of a product of scores
  static constexpr int kHalf = 32;                               // queries that a team hands over
  static constexpr int kM = kWarpKeys / 16;                      // fragments of a warp's keys

 public:
  static constexpr int kThreads = 2 * kTeams * kLanes;
  static constexpr int kBlocksPerMultiprocessor = dim == 64 ? 2 : 1;

 private:
  using Tile = SharedRows<dim, kThreads>;
  static constexpr int kChunks = Tile::kChunks, kRowBytes = Tile::kRowBytes;
  static constexpr int kKeyBytes = kKeys * kRowBytes, kQueryBytes = kQueries * kRowBytes;
  static constexpr int kConstants = kQueries * 4;  // bytes of one f32 per query
  static constexpr int kStageBytes = 2 * kQueryBytes + 4 * kConstants;
  static constexpr int kScoreRow = 128, kScoreBytes = kKeys * kScoreRow;  // P^T, then dS^T
  // Shared memory: K, V, two stages (Q, dO, row state, delta, 1/|q|), two of P^T and dS^T, 1/|k|.
  static constexpr int kValuesAt = kKeyBytes, kStagesAt = 2 * kKeyBytes,
                       kScoresAt = kStagesAt + 2 * kStageBytes,
                       kNormsAt = kScoresAt + 2 * kScoreBytes;

  static constexpr int kHanded = 1;  // named barriers of a team: kHanded + team * 2 + half

  using Row = typename N::template Row<float>;
  static constexpr int kSums = N::has_element_gradients ? kParameters<N> : 0;

 public:
  static constexpr int kSharedBytes = kNormsAt + (kUnit ? kKeys * 4 : 0);
  static_assert(kSharedBytes <= kTiles.shared_bytes(dim));

  __device__ __forceinline__ FlashBackward(const FlashBackwardCall& call, std::uint32_t shared)
      : call_(call),
        shared_(shared),
        lane_(static_cast<int>(threadIdx.x) % kLanes),
        warp_(static_cast<int>(threadIdx.x) / kLanes),
        team_(warp_ % kTeams),
        gradients_(warp_ >= kTeams) {}

  /// One tile of keys of a batch entry or packed sequence and a key head; with dbias in order, the
  /// same tile of all sequences and heads that share an element of it.
  __device__ __forceinline__ void run(int index) {
    if (!general || !call_.bias_in_order) {
      const int kv_heads = call_.heads / call_.group;
      kv_head_ = index / call_.key_slots % kv_heads;
      sequence_ =
          FlashSequence::of<general>(call_.options, true, kKeys, index % call_.key_slots,
                                     index / call_.key_slots / kv_heads, call_.queries, call_.keys);
      run_tile(index % call_.key_slots);
    } else {
      run_in_order(index);
    }
  }

 private:
  __device__ void run_in_order(int index) {
    const FlashOptions& options = call_.options;
    const int head_groups = call_.heads / call_.group / call_.bias_kv_heads,
              at = index % call_.block_slots, heads = index / call_.block_slots % head_groups,
              batch = index / call_.block_slots / head_groups;
    const bool tile_of_all = options.cu_keys != nullptr && call_.bias_sequences > 1;
#pragma unroll 1
    for (int s = 0; s < call_.bias_sequences; ++s) {
      int slot = at;
      if (tile_of_all) {
        slot += options.cu_keys[s] / kKeys + s;
        sequence_ = FlashSequence::of(options, {s, at});
      } else {
        sequence_ = FlashSequence::of<true>(options, true, kKeys, slot, batch + s, call_.queries,
                                            call_.keys);
      }
#pragma unroll 1
      for (int h = 0; h < call_.bias_kv_heads; ++h) {
        kv_head_ = heads * call_.bias_kv_heads + h;
        run_tile(slot);
        __syncthreads();
      }
    }
  }

  // --- one tile of keys ---

  __device__ __forceinline__ void run_tile(int slot) {
    slot_ = slot;
    first_key_ = sequence_.tile * kKeys;
    if (first_key_ >= sequence_.keys) return;
    offset_ = sequence_.keys - sequence_.queries;
    warp_key_ = first_key_ + team_ * kWarpKeys + lane_ / 4;
    clear();
#pragma unroll 1
    for (int pair = 0; pair < S::pairs; ++pair) {
      run_pair(pair);  // and nobody reads K and V any more
      if (gradients_) {
        write_keys(pair);
        clear();
      }
    }
    if (!gradients_) write_values();
  }

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int n = 0; n < dim / 8; ++n)
#pragma unroll
        for (float& value : sums_[m][n]) value = 0;
  }

  /// One tile of queries: where it is and what it is about.
  struct Place {
    int head, tile;
    int stage;
  };

  __device__ __forceinline__ void run_pair(int pair) {
    // Queries that see any of the keys.
    const int last_key = min(first_key_ + kKeys, sequence_.keys) - 1;
    const int begin = max(first_key_ - offset_ + call_.distances.low[pair], 0),
              end = min(last_key + 1 - offset_ + call_.distances.high[pair], sequence_.queries);
    const int first = begin / kQueries, last = (end - 1) / kQueries;
    const int count = end > begin && call_.distances.low[pair] <= call_.distances.high[pair]
                          ? (last - first + 1) * call_.group
                          : 0;
    if (pair > 0) __syncthreads();  // dK has left the place of K
    copy_keys(pair);
    Place next{kv_head_ * call_.group, last, 0};
    if (count > 0) copy_queries(pair, next);
    Place before{};  // whose dQ is still to be made
#pragma unroll 1
    for (int step = 0; step <= count; ++step) {
      wait_for_copies();
      __syncthreads();  // the tile and dS of the one before are here, and nobody reads its stage
      const Place place = next;
      if (step < count) {
        if (step == 0 || place.head != before.head) set_head(place.head);
        next.stage ^= 1;
        if (--next.tile < first) {
          next.tile = last;
          ++next.head;
        }
        if (step + 1 < count) copy_queries(pair, next);
      }
      if (gradients_) {
        if (step > 0) add_query_gradients(pair, before);
        if (step < count) {
          differentiate(place);
          if (next.head != place.head) write_element_sums(pair, place.head);
        }
      } else {
        if (step < count) weigh(pair, place);
        if (step > 0) add_query_gradients(pair, before);
      }
      before = place;
    }
    __syncthreads();
  }

  __device__ __forceinline__ void set_head(int head) {
    parameters_ = load_parameters<N, float>(call_, head);
#pragma unroll
    for (float& sum : element_sums_) sum = 0;
  }

  // --- shared memory ---

  __device__ __forceinline__ std::uint32_t queries_of(const Place& place) const {
    return shared_ + kStagesAt + static_cast<std::uint32_t>(place.stage) * kStageBytes;
  }
  __device__ __forceinline__ std::uint32_t constants_of(const Place& place) const {
    return queries_of(place) + 2 * kQueryBytes;
  }
  /// The warp's rows of K (0) or V (kValuesAt).
  __device__ __forceinline__ std::uint32_t own_rows(int of) const {
    return shared_ + static_cast<std::uint32_t>(of + team_ * kWarpKeys * kRowBytes);
  }

  __device__ __forceinline__ void copy_keys(int pair) const {
    const auto copy = [&](const RowTensor& from, int to, int features) {
      auto rows = Tile::start(
          from, from.rows(sequence_.batch, kv_head_) + sequence_.first_key * from.row, first_key_);
      Tile::template copy<kKeys>(rows, shared_ + static_cast<std::uint32_t>(to), from,
                                 sequence_.keys, features);
    };
    copy(call_.k[pair], 0, call_.dim);
    if (pair == 0) copy(call_.v, kValuesAt, call_.value_dim);
    if constexpr (kUnit) {
      const int j = static_cast<int>(threadIdx.x), kv_heads = call_.heads / call_.group;
      const float* const norms =
          call_.inverse_k + (std::int64_t{sequence_.batch} * kv_heads + kv_head_) * call_.keys +
          sequence_.first_key + first_key_;
      if (j < kKeys)
        copy_4(shared_ + kNormsAt + static_cast<std::uint32_t>(j) * 4, norms + j,
               first_key_ + j < sequence_.keys);
    }
  }

  __device__ __forceinline__ void copy_queries(int pair, const Place& place) const {
    const int first = place.tile * kQueries;
    const auto copy = [&](const RowTensor& from, int to, int features) {
      auto rows = Tile::start(
          from, from.rows(sequence_.batch, place.head) + sequence_.first_query * from.row, first);
      Tile::template copy<kQueries>(rows, queries_of(place) + static_cast<std::uint32_t>(to), from,
                                    sequence_.queries, features);
    };
    copy(call_.q[pair], 0, call_.dim);
    copy(call_.d_out, kQueryBytes, call_.value_dim);
    const int i = static_cast<int>(threadIdx.x);
    if (i >= kQueries) return;
    const std::int64_t row = row_index(place) + i;
    const bool present = first + i < sequence_.queries;
    const std::uint32_t to = constants_of(place) + static_cast<std::uint32_t>(i) * 4;
    if constexpr (N::row_normalised) copy_4(to, call_.row_state + row, present);
    if constexpr (N::delta_rule != DeltaRule::none)
      copy_4(to + kConstants, call_.delta + row, present);
    // Never 0, where a hidden score is infinite: behind the last query its norm.
    if constexpr (kUnit)
      copy_4(to + 2 * kConstants,
             call_.inverse_q + row - max(first + i - (sequence_.queries - 1), 0), true);
  }

  /// Of the first query of a tile, in (B, H, L).
  __device__ __forceinline__ std::int64_t row_index(const Place& place) const {
    return (std::int64_t{sequence_.batch} * call_.heads + place.head) * call_.queries +
           sequence_.first_query + place.tile * kQueries;
  }

  /// Chunk (8 queries) of a key's row of P^T and dS^T.
  __device__ __forceinline__ std::uint32_t score_at(const Place& place, int key, int chunk) const {
    return shared_ + kScoresAt +
           static_cast<std::uint32_t>(place.stage * kScoreBytes + key * kScoreRow +
                                      (chunk ^ (key & 7)) * 16);
  }
  /// What this lane holds there: of key row m, r, queries `query` + 2t and the next.
  __device__ __forceinline__ std::uint32_t own_word(const Place& place, int m, int r,
                                                    int query) const {
    return score_at(place, team_ * kWarpKeys + m * 16 + r * 8 + lane_ / 4, query / 8) +
           static_cast<std::uint32_t>(lane_ % 4 * 4);
  }

  // --- products of rows with rows ---

  /// s[m][n]: keys 16 m, queries 8 n.
  using Scores = float[kM][kStep / 8][4];
  /// A fragments of keys x 16 queries.
  using Words = std::uint32_t[kM][4];

  /// sums += words rows, of 16 queries.
  __device__ __forceinline__ void add_products(const Words& words, std::uint32_t rows) {
    // Matrices: queries 0, 8 and features 0, 8.
    const int matrix = lane_ / 8, line = lane_ % 8;
    std::uint32_t b = Tile::chunk_address(rows, matrix % 2 * 8 + line, matrix / 2);
    asm volatile("" : "+r"(b));
#pragma unroll
    for (int n = 0; n < dim / 16; ++n) {
      std::uint32_t w[4];
      load_transposed(w, b ^ 32 * n);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        T::multiply(sums_[m][2 * n], words[m], w[0], w[1]);
        T::multiply(sums_[m][2 * n + 1], words[m], w[2], w[3]);
      }
    }
  }

  /// Words of 16 queries to there.
  __device__ __forceinline__ void store_words(const Words& words, const Place& place,
                                              int query) const {
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        store_shared(own_word(place, m, i % 2, query + i / 2 * 8), words[m][i]);
  }

  // --- constants of rows ---

  /// 1/|k| of key row m, r of this lane.
  __device__ __forceinline__ float key_norm(int m, int r) const {
    return load_shared(
        shared_ + kNormsAt +
        static_cast<std::uint32_t>((team_ * kWarpKeys + m * 16 + r * 8 + lane_ / 4) * 4));
  }

  /// A constant of two neighbouring queries.
  __device__ __forceinline__ void load_pair(float (&pair)[2], const Place& place, int constant,
                                            int query) const {
    load_shared(pair[0], pair[1],
                constants_of(place) + static_cast<std::uint32_t>(constant * kConstants +
                                                                 (query + lane_ % 4 * 2) * 4));
  }
  __device__ __forceinline__ void load_rows(Row (&rows)[2], const Place& place, int query) const {
    if constexpr (N::row_normalised) {
      float states[2];
      load_pair(states, place, 0, query);
      rows[0] = N::restore(states[0]), rows[1] = N::restore(states[1]);
    }
  }

  // --- the weights warps: flash_backward_weights.cuh ---

  /// Weights of a tile, handed to the team, and dV += P^T dO.
  __device__ __forceinline__ void weigh(int pair, const Place& place);
  __device__ __forceinline__ void scale_rows(Scores& s) const;
  /// Scores of keys that queries from `first` on do not see become what scales to -inf.
  __device__ __forceinline__ void hide(Scores& s, int pair, int first) const;
  /// P^T of 32 queries of the scores; `first` is the first of all.
  __device__ __forceinline__ void make_weights(Words (&p)[2], Scores& s, int half,
                                               const Place& place, int first) const;
  __device__ __forceinline__ void weigh_general(float (&x)[4], const float (&factor)[2],
                                                const Row (&rows)[2], int m, const Place& place,
                                                int query) const;
  /// Shares to weights; `handed`: the words of shares, with a sign where the weight does not
  /// follow.
  __device__ __forceinline__ void clip(float (&x)[4], std::uint32_t (&handed)[2]) const;
  /// The sign of a weight says that dropout takes it away.
  __device__ __forceinline__ void mark_dropped(std::uint32_t (&words)[4], int at, int m,
                                               const Place& place, int query) const;
  /// Dropped weights to 0.
  __device__ __forceinline__ static void drop(Words& words);
  /// P^T of 32 queries to the other warp of the team.
  __device__ __forceinline__ void hand_over(const Words (&words)[2], const Place& place,
                                            int query) const;

  // --- the gradients warps, and dQ: flash_backward_gradients.cuh ---

  /// dS of a tile, for all, and dK += dS^T Q.
  __device__ __forceinline__ void differentiate(const Place& place);
  /// dS^T of queries `first` + 16 c to + 15.
  __device__ __forceinline__ void make_gradients(Words& words, const Scores& dweights, int c,
                                                 const Place& place, int first);
  /// A factor 1/|x| that f16 holds times a gradient: the rows shorter than 2^-12 that this touches
  /// are zeros or subnormals of f16.
  __device__ __forceinline__ static float bounded(float inverse_norm);
  /// Adds dS of query i and key j of a block of scores to dbias.
  __device__ __forceinline__ void add_bias_gradient(float gradient, int head, int i, int j) const;
  __device__ __forceinline__ void write_element_sums(int pair, int head);
  /// dS K of 32 queries and 32 features, added to the sums of all blocks.
  __device__ __forceinline__ void add_query_gradients(int pair, const Place& place) const;

  // --- results: flash_backward_results.cuh ---

  /// dK of a pair, through the warp's rows of K.
  __device__ __forceinline__ void write_keys(int pair);
  __device__ __forceinline__ void write_values();
  /// Sums of unit rows to the gradient of the rows as they are: with y = k / |k| and dy,
  /// dk = (dy - y (y.dy)) / |k|.
  __device__ __forceinline__ void differentiate_norm();
  /// The warp's sums to its keys' rows of a tensor, through `rows` in shared memory, so that rows
  /// leave in whole chunks.
  __device__ __forceinline__ void write_rows(const RowTensor& to, std::uint32_t rows,
                                             int features) const;

  const FlashBackwardCall& call_;
  const std::uint32_t shared_;
  const int lane_, warp_, team_;
  const bool gradients_;  // which of the team's two warps
  FlashSequence sequence_;
  int kv_head_, slot_;
  int first_key_, warp_key_;  // of the block; of this lane's first row
  int offset_;                // position of query 0
  typename N::template Parameters<float> parameters_;
  float element_sums_[kSums > 0 ? kSums : 1] = {};
  float sums_[kM][kChunks][4];  // dV of a weights warp, dK of a gradients warp
};

}  // namespace quietformer::cuda

#include "attention/cuda/flash_backward_gradients.cuh"
#include "attention/cuda/flash_backward_results.cuh"
#include "attention/cuda/flash_backward_weights.cuh"

namespace quietformer::cuda {

template <class S, class N, class T, int dim, bool general>
__global__ void __launch_bounds__(FlashBackward<S, N, T, dim, general>::kThreads,
                                  FlashBackward<S, N, T, dim, general>::kBlocksPerMultiprocessor)
    flash_backward_kernel(const __grid_constant__ FlashBackwardCall call) {
  extern __shared__ __align__(1024) unsigned char shared[];
  int index = static_cast<int>(blockIdx.x);
  if (call.turns[0] != nullptr) {
    if (threadIdx.x == 0) *reinterpret_cast<unsigned*>(shared) = atomicAdd(call.ticket, 1u);
    __syncthreads();
    index = *reinterpret_cast<int*>(shared);
    __syncthreads();
  }
  FlashBackward<S, N, T, dim, general>(call, shared_address(shared)).run(index);
}

}  // namespace quietformer::cuda
