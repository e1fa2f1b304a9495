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
// added to its 32x32 block, which costs a fifth to a quarter of the speed (H200). All blocks go
// through the queries from the last to the first, so each follows the one before at the distance of
// one addition, also when causal. Blocks take their place from a counter: whoever waits, waits for
// blocks that run.
//
// Hidden keys get the weight 0, and dS is 0 with it. A score of two pairs runs the loop twice, for
// the queries that see the keys as near and as far; dV goes on, dK starts again.
//
// Sources: Dao, FlashAttention-2, arXiv 2307.08691 (which products, sums of dQ over blocks).
#pragma once

#include <type_traits>

#include "attention/cuda/flash_backward_call.h"
#include "attention/cuda/options.cuh"
#include "attention/cuda/row_tile.cuh"
#include "attention/cuda/sync.cuh"
#include "attention/normalizer/normalizer.h"
#include "attention/score/score.h"
#include "core/math.h"

namespace quietformer::cuda {

template <class S, class N, class T, int dim, bool general>
class FlashBackward {
  static_assert(N::delta_rule != DeltaRule::weight_sum,
                "a row constant that is a sum over weights takes a pass of its own over the keys");
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
  using Tile = RowTile<dim, kThreads>;
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
  static constexpr int kSums = N::has_element_gradients ? int(N::parameters.size()) : 0;

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

  /// Key tile `slot` of one batch entry and key head; with sums over sequences or heads in order,
  /// the tile of all of them.
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
    const int head_groups = call_.heads / call_.group / call_.bias_kv_heads,
              tile = index % call_.key_slots, heads = index / call_.key_slots % head_groups,
              sequences = index / call_.key_slots / head_groups;
#pragma unroll 1
    for (int s = 0; s < call_.bias_sequences; ++s) {
      const int b = sequences * call_.bias_sequences + s;
      int slot = tile;
      sequence_ = {b, b, 0, call_.queries, 0, call_.keys, tile};
      if (const std::int32_t* const cu = call_.options.cu_keys; cu != nullptr) {
        const std::int32_t* const cu_queries = call_.options.cu_queries;
        slot += cu[b] / kKeys + b;
        sequence_ = {
            b, 0, cu_queries[b], cu_queries[b + 1] - cu_queries[b], cu[b], cu[b + 1] - cu[b], tile};
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
    const int begin = max(first_key_ - offset_ + call_.low[pair], 0),
              end = min(last_key + 1 - offset_ + call_.high[pair], sequence_.queries);
    const int first = begin / kQueries, last = (end - 1) / kQueries;
    const int count =
        end > begin && call_.low[pair] <= call_.high[pair] ? (last - first + 1) * call_.group : 0;
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
    float values[kMaxHeadParameters];
#pragma unroll
    for (int i = 0; i < kMaxHeadParameters; ++i)
      values[i] = call_.parameters[i] != nullptr ? call_.parameters[i][head] : call_.defaults[i];
    parameters_ = N::load(values);
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
      Tile::template copy<kKeys>(
          shared_ + static_cast<std::uint32_t>(to), from,
          from.rows(sequence_.batch, kv_head_) + sequence_.first_key * from.row, first_key_,
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
      Tile::template copy<kQueries>(
          queries_of(place) + static_cast<std::uint32_t>(to), from,
          from.rows(sequence_.batch, place.head) + sequence_.first_query * from.row, first,
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

  /// S^T = rows others^T over all features.
  __device__ __forceinline__ void multiply_rows(Scores& s, std::uint32_t rows,
                                                std::uint32_t others) const {
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int n = 0; n < kStep / 8; ++n)
#pragma unroll
        for (float& value : s[m][n]) value = 0;
    // Matrices of the rows: rows 0, 8 and features 0, 8; of the others: features 0, 8, rows 0, 8.
    const int matrix = lane_ / 8, line = lane_ % 8;
    std::uint32_t a = Tile::at(rows, matrix % 2 * 8 + line, matrix / 2);
    const std::uint32_t b = Tile::at(others, matrix / 2 * 8 + line, matrix % 2);
    asm volatile("" : "+r"(a));  // or its chunks are computed before the loop, and spilled
#pragma unroll
    for (int k = 0; k < dim / 16; ++k) {
      std::uint32_t x[kM][4];
#pragma unroll
      for (int m = 0; m < kM; ++m) load_matrices(x[m], (a ^ 32 * k) + m * 16 * kRowBytes);
#pragma unroll
      for (int n = 0; n < kStep / 16; ++n) {
        std::uint32_t w[4];
        load_matrices(w, (b ^ 32 * k) + n * 16 * kRowBytes);
#pragma unroll
        for (int m = 0; m < kM; ++m) {
          T::multiply(s[m][2 * n], x[m], w[0], w[1]);
          T::multiply(s[m][2 * n + 1], x[m], w[2], w[3]);
        }
      }
    }
  }

  /// sums += words rows, of 16 queries.
  __device__ __forceinline__ void add_products(const Words& words, std::uint32_t rows) {
    // Matrices: queries 0, 8 and features 0, 8.
    const int matrix = lane_ / 8, line = lane_ % 8;
    std::uint32_t b = Tile::at(rows, matrix % 2 * 8 + line, matrix / 2);
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

  // --- the weights warps ---

  /// Weights of a tile, handed to the team, and dV += P^T dO.
  __device__ __forceinline__ void weigh(int pair, const Place& place) {
    const std::uint32_t queries = queries_of(place), out_gradients = queries + kQueryBytes;
#pragma unroll 1
    for (int first = 0; first < kQueries; first += kStep) {
      Scores s;
      multiply_rows(s, own_rows(0), queries + static_cast<std::uint32_t>(first) * kRowBytes);
      if constexpr (kUnit) scale_rows(s);
      hide(s, pair, place.tile * kQueries + first);
      Words p[2];  // of 32 queries
      make_weights(p, s, 0, place, first);
#pragma unroll
      for (int half = 0; half < kStep / kHalf; ++half) {
        Words now[2];
#pragma unroll
        for (int c = 0; c < 2; ++c)
#pragma unroll
          for (int m = 0; m < kM; ++m)
#pragma unroll
            for (int i = 0; i < 4; ++i) now[c][m][i] = p[c][m][i];
        hand_over(now, place, first + half * kHalf);
        // While the products of 32 queries run, the weights of the next 32 are computed.
        if ((half + 1) * kHalf < kStep) make_weights(p, s, half + 1, place, first);
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          if constexpr (general) drop(now[c]);
          add_products(now[c],
                       out_gradients +
                           static_cast<std::uint32_t>(first + half * kHalf + c * 16) * kRowBytes);
        }
      }
    }
  }

  /// P^T of 32 queries to the other warp of the team.
  __device__ __forceinline__ void hand_over(const Words (&words)[2], const Place& place,
                                            int query) const {
#pragma unroll
    for (int c = 0; c < 2; ++c)
#pragma unroll
      for (int m = 0; m < kM; ++m)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          store_shared(own_word(place, m, i % 2, query + c * 16 + i / 2 * 8), words[c][m][i]);
    wait_at(kHanded + team_ * 2 + query / kHalf, 2 * kLanes);
  }

  __device__ __forceinline__ float key_norm(int m, int r) const {
    return load_shared(
        shared_ + kNormsAt +
        static_cast<std::uint32_t>((team_ * kWarpKeys + m * 16 + r * 8 + lane_ / 4) * 4));
  }

  __device__ __forceinline__ void scale_rows(Scores& s) const {
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float norm = key_norm(m, r);
#pragma unroll
        for (int n = 0; n < kStep / 8; ++n) s[m][n][2 * r] *= norm, s[m][n][2 * r + 1] *= norm;
      }
  }

  /// Scores of keys that queries from `first` on do not see to what a scaled -inf comes from.
  __device__ __forceinline__ void hide(Scores& s, int pair, int first) const {
    const int low = call_.low[pair], high = call_.high[pair];
    const int warp_first = first_key_ + team_ * kWarpKeys, warp_end = warp_first + kWarpKeys;
    const int nearest = first + offset_ - (warp_end - 1),
              farthest = min(first + kStep, sequence_.queries) - 1 + offset_ - warp_first;
    if (nearest >= low && farthest <= high && warp_end <= sequence_.keys) return;
    const float hidden = call_.scale > 0 ? -math::kInfinity<float> : math::kInfinity<float>;
    const unsigned width = static_cast<unsigned>(high - low);
    const int distance = first + offset_ + lane_ % 4 * 2 - warp_key_ - low;
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const bool exists = warp_key_ + m * 16 + r * 8 < sequence_.keys;
#pragma unroll
        for (int n = 0; n < kStep / 8; ++n)
#pragma unroll
          for (int e = 0; e < 2; ++e)
            if (!exists || static_cast<unsigned>(distance + n * 8 + e - m * 16 - r * 8) > width)
              s[m][n][2 * r + e] = hidden;
      }
  }

  __device__ __forceinline__ float weight_of(float x, float factor, const Row& row) const {
    if constexpr (requires { N::weight_of_product(x, factor, row, parameters_); })
      return N::weight_of_product(x, factor, row, parameters_);
    else
      return N::weight(x * factor, row, parameters_);
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

  /// P^T of 32 queries of the scores; `first` is the first of all.
  __device__ __forceinline__ void make_weights(Words (&p)[2], Scores& s, int half,
                                               const Place& place, int first) const {
#pragma unroll
    for (int n = half * 4; n < half * 4 + 4; ++n) {
      Row rows[2];
      load_rows(rows, place, first + n * 8);
      float factor[2] = {call_.scale, call_.scale};
      if constexpr (kUnit) {
        load_pair(factor, place, 2, first + n * 8);
        factor[0] *= call_.scale, factor[1] *= call_.scale;
      }
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        float(&x)[4] = s[m][n];
        if constexpr (general) {
          weigh_general(x, factor, rows, m, place, first + n * 8);
        } else {
#pragma unroll
          for (int e = 0; e < 4; ++e) x[e] = weight_of(x[e], factor[e % 2], rows[e % 2]);
        }
        std::uint32_t(&to)[4] = p[n % 4 / 2][m];
        to[n % 2 * 2] = T::pack(x[0], x[1]), to[n % 2 * 2 + 1] = T::pack(x[2], x[3]);
        if constexpr (general) mark_dropped(to, n % 2 * 2, m, place, first + n * 8);
      }
    }
  }

  // --- options of the weights ---

  __device__ __forceinline__ void weigh_general(float (&x)[4], const float (&factor)[2],
                                                const Row (&rows)[2], int m, const Place& place,
                                                int query) const {
    const ScoreOptions options(call_.options, sequence_, place.head);
    int first_query = place.tile * kQueries + query + lane_ % 4 * 2, first_key = warp_key_ + m * 16;
    // Or addresses of all scores of the tile are computed at once, and spilled.
    asm volatile("" : "+r"(first_query), "+r"(first_key));
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int i = first_query + e % 2, j = first_key + e / 2 * 8;
      float score = x[e] * factor[e % 2];
      if (i < sequence_.queries && j < sequence_.keys) score = options.score(score, i, j);
      x[e] = N::weight(score, rows[e % 2], parameters_);
    }
  }

  /// The sign of a weight says that dropout takes it away.
  __device__ __forceinline__ void mark_dropped(std::uint32_t (&words)[4], int at, int m,
                                               const Place& place, int query) const {
    const DropoutOptions dropout(call_.options, sequence_, place.head);
    if (!dropout.active()) return;
    const std::uint32_t kept =
        dropout.kept_transposed(place.tile * kQueries + query, warp_key_ - lane_ / 4 + m * 16);
#pragma unroll
    for (int e = 0; e < 4; ++e)
      if ((kept >> e & 1) == 0) words[at + e / 2] |= e % 2 == 0 ? 0x8000u : 0x80000000u;
  }

  /// Dropped weights to 0.
  __device__ __forceinline__ static void drop(Words& words) {
#pragma unroll
    for (auto& fragment : words)
#pragma unroll
      for (std::uint32_t& word : fragment) {
        if (word & 0x8000u) word &= 0xFFFF0000u;
        if (word & 0x80000000u) word &= 0xFFFFu;
      }
  }

  // --- the gradients warps ---

  /// dS of a tile, for all, and dK += dS^T Q.
  __device__ __forceinline__ void differentiate(const Place& place) {
    const std::uint32_t queries = queries_of(place);
#pragma unroll 1
    for (int first = 0; first < kQueries; first += kStep) {
      Scores s;
      multiply_rows(s, own_rows(kValuesAt),
                    queries + kQueryBytes + static_cast<std::uint32_t>(first) * kRowBytes);
#pragma unroll
      for (int half = 0; half < kStep / kHalf; ++half) {
        wait_at(kHanded + team_ * 2 + (first + half * kHalf) / kHalf, 2 * kLanes);
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          Words words;
          make_gradients(words, s, half * 2 + c, place, first);
          add_products(words, queries + static_cast<std::uint32_t>(first + half * kHalf + c * 16) *
                                            kRowBytes);
        }
      }
    }
  }

  /// dS^T of queries `first` + 16 c to + 15.
  __device__ __forceinline__ void make_gradients(Words& words, const Scores& dweights, int c,
                                                 const Place& place, int first) {
    const int query = first + c * 16;
#pragma unroll
    for (int half = 0; half < 2; ++half) {  // 8 queries
      Row rows[2];
      load_rows(rows, place, query + half * 8);
      float delta[2] = {}, norm[2] = {1, 1};
      if constexpr (N::delta_rule != DeltaRule::none) load_pair(delta, place, 1, query + half * 8);
      if constexpr (kUnit) load_pair(norm, place, 2, query + half * 8);
#pragma unroll
      for (int m = 0; m < kM; ++m)
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          std::uint32_t& word = words[m][half * 2 + r];
          const std::uint32_t at = own_word(place, m, r, query + half * 8);
          word = load_word(at);
          float gradient[2];
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float weight = e == 0 ? T::low(word) : T::high(word);
            float dweight = dweights[m][c * 2 + half][2 * r + e];
            if constexpr (general) {
              if (call_.options.dropout) {
                dweight = std::signbit(weight) ? 0.0f : dweight * call_.options.kept;
                weight = fabsf(weight);
              }
            }
            // Scores do not come this far.
            const Element<float> element{math::kNaN<float>, weight, dweight};
            gradient[e] = N::dscore(element, delta[e], rows[e], parameters_);
            if constexpr (kSums > 0)
#pragma unroll
              for (int k = 0; k < kSums; ++k)
                element_sums_[k] +=
                    N::element_gradient(k, element, gradient[e], rows[e], parameters_);
            if constexpr (general)
              add_bias_gradient(gradient[e], place.head,
                                place.tile * kQueries + query + half * 8 + lane_ % 4 * 2 + e,
                                warp_key_ + m * 16 + r * 8);
          }
          if constexpr (kUnit) {
            const float own = bounded(key_norm(m, r));
            store_shared(at, T::pack(gradient[0] * own, gradient[1] * own));
            word = T::pack(gradient[0] * bounded(norm[0]), gradient[1] * bounded(norm[1]));
          } else {
            word = T::pack(gradient[0], gradient[1]);
            store_shared(at, word);
          }
        }
    }
  }

  /// A factor 1/|x| that f16 holds times a gradient: the rows shorter than 2^-12 that this touches
  /// are zeros or subnormals of f16.
  __device__ __forceinline__ static float bounded(float inverse_norm) {
    return std::is_same_v<T, F16> ? fminf(inverse_norm, 4096.0f) : inverse_norm;
  }

  /// Adds dS of query i and key j of a block of scores to dbias.
  __device__ __forceinline__ void add_bias_gradient(float gradient, int head, int i, int j) const {
    if (call_.bias_gradient.data == nullptr) return;
    asm volatile("" : "+r"(i), "+r"(j));  // as in weigh_general()
    const Broadcast<float>& to = call_.bias_gradient;
    bool leader = true;
    if (to.query == 0) {  // the four lanes of a key
      gradient += __shfl_xor_sync(0xFFFFFFFFu, gradient, 1);
      gradient += __shfl_xor_sync(0xFFFFFFFFu, gradient, 2);
      leader = lane_ % 4 == 0;
    }
    if (to.key == 0) {  // the eight lanes of a query
      gradient += __shfl_xor_sync(0xFFFFFFFFu, gradient, 4);
      gradient += __shfl_xor_sync(0xFFFFFFFFu, gradient, 8);
      gradient += __shfl_xor_sync(0xFFFFFFFFu, gradient, 16);
      leader = leader && lane_ / 4 == 0;
    }
    if (gradient == 0) return;
    // A leader's query or key may lie outside where others of its sum do not.
    if (!leader || (to.query != 0 && i >= sequence_.queries) ||
        (to.key != 0 && j >= sequence_.keys))
      return;
    const std::int64_t at = sequence_.index * to.batch + head * to.head + i * to.query + j * to.key;
    if (!call_.bias_in_order)
      atomicAdd(const_cast<float*>(to.data) + at, gradient);
    else if (call_.bias_copies)
      call_.bias_copy[(std::int64_t{slot_} * kTeams + team_) * call_.bias_count + at] += gradient;
    else
      const_cast<float*>(to.data)[at] += gradient;
  }

  __device__ __forceinline__ void write_element_sums(int pair, int head) {
    if constexpr (kSums > 0) {
      float* const to =
          call_.element_partials +
          (((std::int64_t{sequence_.batch} * call_.heads + head) * call_.key_slots + slot_) *
               kTeams * S::pairs +
           team_ * S::pairs + pair) *
              kMaxHeadParameters;
#pragma unroll
      for (int k = 0; k < kSums; ++k) {
        float sum = element_sums_[k];
#pragma unroll
        for (int distance = 16; distance > 0; distance /= 2)
          sum += __shfl_xor_sync(0xFFFFFFFFu, sum, distance);
        if (lane_ == 0) to[k] = sum;
      }
    }
  }

  // --- dQ ---

  /// dS K of 32 queries and 32 features, added to the sums of all blocks.
  __device__ __forceinline__ void add_query_gradients(int pair, const Place& place) const {
    static_assert(kQueries / 32 * (dim / 32) == 2 * kTeams);
    const int queries = warp_ / (dim / 32), features = warp_ % (dim / 32);
    float c[2][4][4] = {};
    // Matrices of dS: queries 0, 8 and keys 0, 8; of K: keys 0, 8 and features 0, 8.
    const int matrix = lane_ / 8, line = lane_ % 8;
    const std::uint32_t a = score_at(place, matrix / 2 * 8 + line, queries * 4 + matrix % 2),
                        b = Tile::at(shared_, matrix % 2 * 8 + line, features * 4 + matrix / 2);
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
      std::uint32_t x[2][4];
#pragma unroll
      for (int m = 0; m < 2; ++m) load_transposed(x[m], (a ^ 32 * m) + k * 16 * kScoreRow);
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        std::uint32_t w[4];
        load_transposed(w, (b ^ 32 * n) + k * 16 * kRowBytes);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          T::multiply(c[m][2 * n], x[m], w[0], w[1]);
          T::multiply(c[m][2 * n + 1], x[m], w[2], w[3]);
        }
      }
    }
    int slot = place.tile;
    if constexpr (general)
      if (call_.options.cu_queries != nullptr)
        slot += sequence_.first_query / kQueries + sequence_.index;
    const std::int64_t block =
        ((std::int64_t{sequence_.batch} * call_.heads + place.head) * call_.query_slots + slot) *
            2 * kTeams +
        warp_;
    float* const sums = call_.query_sums[pair] + block * kSumBlock;
    if (call_.turns[pair] == nullptr) {
      add_to_block(sums, c, lane_);
      return;
    }
    // As many blocks come before as there are tiles of keys that the queries see and before mine.
    const int first_seen = max(place.tile * kQueries + offset_ - call_.high[pair], 0);
    const unsigned turn = static_cast<unsigned>(sequence_.tile - first_seen / kKeys);
    if (lane_ == 0) wait_for_turn(call_.turns[pair] + block, turn);
    __syncwarp();
    add_to_block(sums, c, lane_);
    __syncwarp();
    if (lane_ == 0) pass_turn(call_.turns[pair] + block, turn);
  }

  // --- results ---

  /// dK of a pair, through the warp's rows of K.
  __device__ __forceinline__ void write_keys(int pair) {
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

  __device__ __forceinline__ void write_values() {
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

  /// Sums of unit rows to the gradient of the rows as they are: with y = k / |k| and dy,
  /// dk = (dy - y (y.dy)) / |k|.
  __device__ __forceinline__ void differentiate_norm() {
    const std::uint32_t keys = own_rows(0) + static_cast<std::uint32_t>(lane_ % 4 * 4);
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int row = m * 16 + r * 8 + lane_ / 4;
        float squares = 0, product = 0;
#pragma unroll
        for (int n = 0; n < kChunks; ++n) {
          const std::uint32_t word = load_word(Tile::at(keys, row, n));
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
          const std::uint32_t word = load_word(Tile::at(keys, row, n));
          float &low = sums_[m][n][2 * r], &high = sums_[m][n][2 * r + 1];
          low = (scale * low - T::low(word) * projection) * inverse;
          high = (scale * high - T::high(word) * projection) * inverse;
        }
      }
  }

  /// The warp's sums to its keys' rows of a tensor, through `rows` in shared memory, so that rows
  /// leave in whole chunks.
  __device__ __forceinline__ void write_rows(const RowTensor& to, std::uint32_t rows,
                                             int features) const {
    __syncwarp();
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int r = 0; r < 2; ++r)
#pragma unroll
        for (int n = 0; n < kChunks; ++n)
          store_shared(Tile::at(rows, m * 16 + r * 8 + lane_ / 4, n) +
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
      load_shared(words, Tile::at(rows, row, chunk));
      write_chunk(to, start + row * to.row, chunk, features, words);
    }
  }

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
