// Forward of `flash` on a GPU: one block of 4 warps per tile of 128 query rows of a head, 32 rows
// per warp, over tiles of 64 keys (ForwardShape; head dims over 128 take less of each).
//
//   Q                      shared memory, once
//   for tiles of keys that some row of the block sees
//     wait for K, V        copied while the tile before was worked on (two stages)
//     S = Q K^T            registers: C fragments, f32
//     hidden keys to -inf  only in tiles that a row of the warp sees in part
//     options              `general` kernels: options.cuh
//     maximum              only where a row has no reference yet or its sum has outgrown it:
//                          raises it and rescales O
//     P = terms            the normaliser's, in place
//     O += P V             P rounded to the operand type: C fragments are A fragments
//   once more, with a maximum per tile, if a row has outgrown what P holds
//   O * scale, statistics
//
// Weights that need the finished row (kTwoPasses) take the loop twice: for the sum of terms alone,
// without V and O, and again for P and O.
//
// A warp of 32 rows uses every fragment of K and V twice, which keeps shared memory (128 bytes a
// cycle) behind the products.
//
// Which keys row i sees is an interval whose ends grow with i: causality, window and the two pairs
// of a score are all intervals, so tiles are skipped or left unmasked by looking at the first and
// the last row. A score of two pairs runs the loop twice, over the near and then the far keys of
// each row, with the same row state.
//
// Terms are relative to a reference that is rarely raised, and then after a look at sums instead of
// a maximum per tile: row_terms.cuh.
//
// Sources: Dao et al., FlashAttention-2, arXiv 2307.08691 (rows split over warps, division at the
// end); Milakov and Gimelshein, arXiv 1805.02867 (online softmax).
#pragma once

#include <type_traits>

#include "attention/cuda/options.cuh"
#include "attention/cuda/row_terms.cuh"
#include "attention/cuda/tile.cuh"
#include "attention/cuda/visible.cuh"
#include "attention/normalizer/normalizer.h"
#include "attention/score/score.h"
#include "core/math.h"

namespace quietformer::cuda {

/// How the work of one block is cut for heads padded to `dim` features: accumulators of a warp's
/// rows (dim / 8 * rows / 8 registers) and scores (keys / 8 * rows / 8) must fit into the 255
/// registers of a thread, and the block into 99 KiB of shared memory (sm_86).
template <int dim>
struct ForwardShape {
  static constexpr int kWarps = 4, kWarpRows = dim <= 128 ? 32 : 16;
  static constexpr int kKeys = dim <= 128 ? 64 : 32;
  static constexpr int kBlocks = 2;  // per multiprocessor
};

template <class S, class N, class T, int dim, bool general>
class FlashForward {
  static constexpr bool kTwoPasses = N::row_normalised && N::weights_need_final_row;
  static constexpr bool kUnit = S::operands == Operands::unit_groups;
  static constexpr int kLanes = 32, kWarpRows = ForwardShape<dim>::kWarpRows,
                       kKeys = ForwardShape<dim>::kKeys;
  static constexpr int kRows = ForwardShape<dim>::kWarps * kWarpRows;
  static constexpr int M = kWarpRows / 16, R = 2 * M;  // row blocks of a warp, rows of a lane

 public:
  static constexpr int kThreads = ForwardShape<dim>::kWarps * kLanes;

 private:
  using Shared = SharedRows<dim, kThreads>;
  using Visible = VisibleKeys<S>;
  static constexpr int kChunks = Shared::kChunks, kRowBytes = Shared::kRowBytes;
  static constexpr int kQueryBytes = kRows * kRowBytes, kKeyBytes = kKeys * kRowBytes;
  // Stages start at multiples of a row, too.
  static constexpr int kNormBytes = kUnit ? (kKeys * 4 + kRowBytes - 1) / kRowBytes * kRowBytes : 0;
  static constexpr int kStageBytes = 2 * kKeyBytes + kNormBytes;
  static constexpr float kHidden = -math::kInfinity<float>;

  // Looking for tiles of small weights pays where a score has few products to hide its weight.
  static constexpr bool kKnowsSmall =
      !general && !kUnit && dim <= 64 && requires(typename N::template Parameters<float> p) {
    N::small_up_to(p);
  };

  struct Nothing {};
  // Terms that are nothing but summed are f32, which has the exponents of bf16.
  using Terms = RowTerms<N, std::conditional_t<kTwoPasses, Bf16, T>, R>;
  using Row = typename N::template Row<float>;

  /// What the second pass has of its rows, and finds.
  struct FinalRows {
    typename Terms::Partial own;  // of row lane % 4, merged over the lanes
    Row rows[R];
    RowTerms<N, T, R, false> weights;
  };
  /// s[m][n]: rows 16 m, keys 8 n.
  using Scores = float[M][kKeys / 8][4];

  /// What only general kernels know of their head.
  struct HeadOptions {
    ScoreOptions scores;
    DropoutOptions dropout;
  };
  using Options = std::conditional_t<general, HeadOptions, Nothing>;

  static __device__ __forceinline__ Options options_of(const FlashForwardCall& call, int head,
                                                       const FlashSequence& sequence) {
    if constexpr (general)
      return {ScoreOptions(call.options, sequence, head),
              DropoutOptions(call.options, sequence, head)};
    else
      return {};
  }

 public:
  static constexpr int kSharedBytes = kQueryBytes + 2 * kStageBytes;

  /// Blocks for one head of one batch entry.
  static std::int64_t tiles(const FlashForwardCall& call) {
    return call.options.tiles(call.queries, kRows);
  }

  __device__ __forceinline__ FlashForward(const FlashForwardCall& call, int head,
                                          const FlashSequence& sequence, std::uint32_t shared)
      : call_(call),
        sequence_(sequence),
        shared_(shared),
        lane_(static_cast<int>(threadIdx.x) % kLanes),
        first_(sequence.tile * kRows),
        warp_first_(first_ + static_cast<int>(threadIdx.x) / kLanes * kWarpRows),
        head_(head),
        queries_(shared_ + static_cast<std::uint32_t>(warp_first_ - first_) * kRowBytes),
        options_(options_of(call, head, sequence)) {}

  static __device__ __forceinline__ void run(const FlashForwardCall& call, std::uint32_t shared) {
    // Later tiles see more keys when causal: they come first, so that no long one is left over.
    const int index = static_cast<int>(blockIdx.x),
              count = static_cast<int>(gridDim.x) / (call.heads * call.batch);
    const int head = index / count % call.heads, batch = index / count / call.heads;
    const FlashSequence sequence = FlashSequence::of<general>(
        call.options, false, kRows, count - 1 - index % count, batch, call.queries, call.keys);
    if (sequence.tile * kRows >= sequence.queries) return;
    FlashForward forward(call, head, sequence, shared);
    do {
      forward.start();
#pragma unroll 1
      for (int pair = 0; pair < S::pairs; ++pair) forward.run_pair(pair);
    } while (forward.must_go_again());
    forward.finish();
  }

 private:
  /// The same pass with more care, or the second. All threads of the block call together.
  __device__ __forceinline__ bool must_go_again() {
    if constexpr (kTwoPasses) {
      if (!summing_) return false;
      if (!terms_.must_start_again()) finish_rows();
      return true;
    } else {
      return terms_.must_start_again();
    }
  }

  __device__ __forceinline__ void finish_rows() {
    load_parameters();
    final_.own = terms_.merge();
    const float saved = N::saved(N::finish(final_.own, parameters_));
#pragma unroll
    for (int r = 0; r < R; ++r)
      final_.rows[r] = N::restore(__shfl_sync(0xFFFFFFFFu, saved, lane_ / 4 * 4 + r));
    final_.weights.start();
    summing_ = false;
    __syncthreads();  // everybody is done with the keys of the first pass
  }

  __device__ __forceinline__ void start() {
    terms_.start();
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int n = 0; n < kChunks; ++n)
#pragma unroll
        for (float& value : o_[m][n]) value = 0;
  }

  __device__ __forceinline__ void load_parameters() {
    float values[kMaxHeadParameters];
#pragma unroll
    for (int i = 0; i < kMaxHeadParameters; ++i)
      values[i] = call_.parameters[i] != nullptr ? call_.parameters[i][head_] : call_.defaults[i];
    parameters_ = N::load(values);
  }

  // --- which keys ---

  __device__ __forceinline__ int queries() const {
    return general ? sequence_.queries : call_.queries;
  }
  __device__ __forceinline__ int keys() const {
    return general ? sequence_.keys : call_.keys;
  }

  __device__ __forceinline__ KeyRange keys_of(int pair, int i) const {
    return Visible::template of<general>(call_, sequence_, pair, i);
  }
  __device__ __forceinline__ auto reach(int pair, int first, int rows) const {
    return Visible::template reach<general>(call_, sequence_, pair, first, rows);
  }

  // --- copies ---

  /// Where the tile of keys from `first` on lies.
  __device__ __forceinline__ std::uint32_t stage(int first) const {
    return shared_ + kQueryBytes + static_cast<std::uint32_t>(first) / kKeys % 2 * kStageBytes;
  }

  /// Row `first` of the sequence and those that follow, of one head of a tensor.
  __device__ __forceinline__ const std::uint16_t* rows_of(const RowTensor& tensor, int head,
                                                          int first) const {
    const std::uint16_t* const rows = tensor.rows(sequence_.batch, head);
    return general ? rows + first * tensor.row : rows;
  }

  /// Where this thread's part of the next tile of K and V starts, and the norms of all keys.
  struct KeyRows {
    const std::uint16_t *k, *v;
    const float* norms;
  };

  /// Starts copying the keys from `first` on, and moves on to the tile behind them.
  __device__ __forceinline__ void copy_keys(int pair, int first, KeyRows& from,
                                            std::uint32_t to) const {
    const RowTensor &k = call_.k[pair], &v = call_.v;
    const bool values = !kTwoPasses || !summing_;
    if (first + kKeys <= keys() && call_.dim == dim && call_.value_dim == dim && k.aligned &&
        v.aligned) {
      Shared::template copy_whole<kKeys>(from.k, to, k);
      if (values) Shared::template copy_whole<kKeys>(from.v, to + kKeyBytes, v);
    } else {
      KeyRows part = from;
      asm volatile("" : "+l"(part.k), "+l"(part.v));  // or their addresses are kept for this alone
      const int row = first + static_cast<int>(threadIdx.x) / kChunks;
      typename Shared::Copy k_rows{part.k, row}, v_rows{part.v, row};
      Shared::template copy<kKeys>(k_rows, to, k, keys(), call_.dim);
      if (values) Shared::template copy<kKeys>(v_rows, to + kKeyBytes, v, keys(), call_.value_dim);
    }
    from.k += kKeys * k.row, from.v += kKeys * v.row;
    if constexpr (kUnit) {
      const int j = static_cast<int>(threadIdx.x);
      if (j < kKeys)
        copy_4(to + static_cast<std::uint32_t>(2 * kKeyBytes + j * 4), from.norms + first + j,
               first + j < keys());
    }
  }

  // --- work on rows ---

  __device__ __forceinline__ void run_pair(int pair) {
    const auto block = reach(pair, first_, kRows), warp = reach(pair, warp_first_, kWarpRows);
    if (block.end <= block.begin) return;
    if (pair > 0) __syncthreads();  // everybody is done with the shared memory of the first
    const int begin = block.begin / kKeys * kKeys;
    const RowTensor &q_rows = call_.q[pair], &k_rows = call_.k[pair], &v_rows = call_.v;
    const int kv_head = head_ / call_.group;
    typename Shared::Copy q =
        Shared::start(q_rows, rows_of(q_rows, head_, sequence_.first_query), first_);
    KeyRows from{
        Shared::start(k_rows, rows_of(k_rows, kv_head, sequence_.first_key), begin).at,
        Shared::start(v_rows, rows_of(v_rows, kv_head, sequence_.first_key), begin).at,
        call_.key_norms + sequence_.first_key +
            (std::int64_t{sequence_.batch} * (call_.heads / call_.group) + kv_head) * call_.keys};
    Shared::template copy<kRows>(q, shared_, q_rows, queries(), call_.dim);
    copy_keys(pair, begin, from, stage(begin));
    if constexpr (!N::row_normalised) load_parameters();  // while the copies are under way
    if (kUnit || call_.negative) {
      wait_for_copies();
      __syncthreads();
      prepare_queries();
    }
#pragma unroll 1
    for (int first = begin; first < block.end; first += kKeys) {
      wait_for_copies();
      __syncthreads();  // the tile is here, and nobody reads the other stage any more
      if (first + kKeys < block.end) copy_keys(pair, first + kKeys, from, stage(first + kKeys));
      if (first < warp.end && first + kKeys > warp.begin)
        add_tile(pair, first, stage(first), first < warp.all_begin || first + kKeys > warp.all_end);
    }
  }

  /// Row scales of unit operands, and the sign of the scale, which then is positive.
  __device__ __forceinline__ void prepare_queries() {
    const int row = lane_ % kWarpRows;
    if constexpr (kUnit) {
      const float sum = Shared::template sum_of_squares<T>(queries_, row);
      const float inverse = call_.scale * S::inverse_norm(sum);
#pragma unroll
      for (int r = 0; r < R; ++r)
        row_scale_[r] = __shfl_sync(0xFFFFFFFFu, inverse, r * 8 + lane_ / 4);
    }
    if (call_.negative && row == lane_) Shared::negate(queries_, row);
    __syncwarp();
  }

  /// What makes a score of a value in `Scores`.
  __device__ __forceinline__ float scale_of(int r) const {
    if constexpr (general)
      return 1;  // adjust() has done it
    else
      return row_factor(r);
  }
  __device__ __forceinline__ float row_factor(int r) const {
    if constexpr (kUnit)
      return row_scale_[r];
    else
      return call_.scale;
  }

  __device__ __forceinline__ void add_tile(int pair, int first, std::uint32_t keys, bool masked) {
    Scores s;
    if constexpr (dim <= 128 && !general)
      Shared::template multiply_ahead<T>(s, queries_, keys);
    else
      Shared::template multiply<T>(s, queries_, keys);
    if constexpr (kUnit) scale_columns(s, keys + 2 * kKeyBytes);
    if constexpr (general)
      adjust(s, pair, first);
    else if (masked)
      hide(s, pair, first);
    if constexpr (kTwoPasses) {
      if (summing_) return sum_terms(s);
    } else if constexpr (N::row_normalised) {
      if (terms_.wants_maximum()) raise(s);
    }
    if constexpr (kKnowsSmall) {
      if (all_small(s)) return add_values<true>(s, first, keys + kKeyBytes);
    }
    add_values<false>(s, first, keys + kKeyBytes);
  }

  /// Whether all weights of a tile are small; the warp decides together.
  __device__ __forceinline__ bool all_small(const Scores& s) const {
    float highs[4] = {kHidden, kHidden, kHidden, kHidden};
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) highs[e] = fmaxf(highs[e], s[m][n][e]);
    const float high = fmaxf(fmaxf(highs[0], highs[1]), fmaxf(highs[2], highs[3]));
    return __all_sync(0xFFFFFFFFu, high * call_.scale <= N::small_up_to(parameters_)) != 0;
  }

  __device__ __forceinline__ void scale_columns(Scores& s, std::uint32_t norms) const {
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
      float left, right;
      load_shared(left, right, norms + static_cast<std::uint32_t>((n * 8 + lane_ % 4 * 2) * 4));
#pragma unroll
      for (int m = 0; m < M; ++m) {
        s[m][n][0] *= left, s[m][n][1] *= right;
        s[m][n][2] *= left, s[m][n][3] *= right;
      }
    }
  }

  __device__ __forceinline__ void hide(Scores& s, int pair, int first) const {
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const KeyRange range = keys_of(pair, warp_first_ + r * 8 + lane_ / 4);
      const int column = first + lane_ % 4 * 2, begin = static_cast<int>(range.begin) - column,
                end = static_cast<int>(range.end) - column;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e)
          if (n * 8 + e < begin || n * 8 + e >= end) s[r / 2][n][r % 2 * 2 + e] = kHidden;
    }
  }

  /// Products to scores with every option; hidden keys to -inf.
  __device__ __forceinline__ void adjust(Scores& s, int pair, int first) const {
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const int i = warp_first_ + r * 8 + lane_ / 4;
      const KeyRange range = i < queries() ? keys_of(pair, i) : KeyRange{};
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int j = first + n * 8 + lane_ % 4 * 2 + e;
          float& value = s[r / 2][n][r % 2 * 2 + e];
          value = j >= range.begin && j < range.end
                      ? options_.scores.score(value * row_factor(r), i, j)
                      : kHidden;
        }
    }
  }

  __device__ __forceinline__ void raise(const Scores& s) {
    float factor[R];
#pragma unroll
    for (int r = 0; r < R; ++r) {
      float high = kHidden;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n)
        high = fmaxf(high, fmaxf(s[r / 2][n][r % 2 * 2], s[r / 2][n][r % 2 * 2 + 1]));
      factor[r] = high * scale_of(r);
    }
    if (!terms_.raise(factor, queries() - warp_first_) || kTwoPasses) return;
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int n = 0; n < kChunks; ++n) {
        o_[r / 2][n][r % 2 * 2] *= factor[r];
        o_[r / 2][n][r % 2 * 2 + 1] *= factor[r];
      }
  }

  /// The first of two passes.
  __device__ __forceinline__ void sum_terms(Scores& s) {
    if (terms_.wants_maximum()) raise(s);
#pragma unroll
    for (int r = 0; r < R; ++r) {
      float sum = 0;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n)
        sum += term_of(s[r / 2][n][r % 2 * 2], r) + term_of(s[r / 2][n][r % 2 * 2 + 1], r);
      terms_.add(r, sum);
    }
    terms_.look_at_sums();
  }

  /// Of a value of row r in `Scores`.
  __device__ __forceinline__ float term_of(float x, int r) const {
    if constexpr (requires { N::term_of_product(x, x, terms_[r]); })
      return N::term_of_product(x, scale_of(r), terms_[r]);
    else
      return N::term(x * scale_of(r), terms_[r]);
  }

  /// The same, or the weight itself where there are two passes or no row state.
  __device__ __forceinline__ float weight_of(float x, int r) const {
    if constexpr (kTwoPasses && requires { N::share_of_product(x, x, Row{}, parameters_); })
      return N::weight_of(N::share_of_product(x, scale_of(r), final_.rows[r], parameters_),
                          parameters_);
    else if constexpr (kTwoPasses)
      return N::weight(x * scale_of(r), final_.rows[r], parameters_);
    else if constexpr (N::row_normalised)
      return term_of(x, r);
    else if constexpr (requires { N::weight_of_product(x, x, Row{}, parameters_); })
      return N::weight_of_product(x, scale_of(r), Row{}, parameters_);
    else
      return N::weight(x * scale_of(r), Row{}, parameters_);
  }

  /// Values of row r in `Scores` to terms of the row state, or to weights that need none.
  template <bool small>
  __device__ __forceinline__ void weigh_row(float (&x)[4], int r) const {
    if constexpr (small) {
#pragma unroll
      for (float& value : x)
        value = N::small_weight_of_product(value, scale_of(r), Row{}, parameters_);
    } else if constexpr (requires { N::weights_of_products(x, 1.0f, Row{}, parameters_); }) {
      N::weights_of_products(x, scale_of(r), Row{}, parameters_);
    } else {
#pragma unroll
      for (float& value : x) value = weight_of(value, r);
    }
  }

  /// Scores of 16 keys to P, and their sums.
  template <bool small>
  __device__ __forceinline__ void weigh(Scores& s, int k) {
#pragma unroll
    for (int r = 0; r < R; ++r) {
      float(&left)[4] = s[r / 2][2 * k], (&right)[4] = s[r / 2][2 * k + 1];
      const int e = r % 2 * 2;
      float x[4] = {left[e], left[e + 1], right[e], right[e + 1]};
      weigh_row<small>(x, r);
      left[e] = x[0], left[e + 1] = x[1], right[e] = x[2], right[e + 1] = x[3];
      const float sum = (x[0] + x[1]) + (x[2] + x[3]);
      if constexpr (kTwoPasses && general)
        final_.weights.add(r, sum);
      else if constexpr (!kTwoPasses && (N::row_normalised || general))
        terms_.add(r, sum);
    }
  }

  /// Scores to P, and O += P V. While the products of 16 keys run, the weights of the next 16 are
  /// computed: exp has a unit of its own. `small`: of a tile where all weights are.
  template <bool small>
  __device__ __forceinline__ void add_values(Scores& s, int first, std::uint32_t values) {
    // Matrices: keys 0, 8 and features 0, 8.
    const int matrix = lane_ / 8, line = lane_ % 8;
    const std::uint32_t b = Shared::chunk_address(values, matrix % 2 * 8 + line, matrix / 2);
    weigh<small>(s, 0);
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
      std::uint32_t p[M][4];
#pragma unroll
      for (int m = 0; m < M; ++m)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          p[m][i] = T::pack(s[m][2 * k + i / 2][i % 2 * 2], s[m][2 * k + i / 2][i % 2 * 2 + 1]);
      if constexpr (general) drop(p, first + k * 16);
      if (k + 1 < kKeys / 16) weigh<small>(s, k + 1);
#pragma unroll
      for (int n = 0; n < dim / 16; ++n) {
        std::uint32_t w[4];
        load_transposed(w, (b ^ 32 * n) + k * 16 * kRowBytes);
#pragma unroll
        for (int m = 0; m < M; ++m) {
          T::multiply(o_[m][2 * n], p[m], w[0], w[1]);
          T::multiply(o_[m][2 * n + 1], p[m], w[2], w[3]);
        }
      }
    }
    if constexpr (N::row_normalised && !kTwoPasses) terms_.look_at_sums();
  }

  /// Zeros for the dropped of 16 weights from key `first` on; finish() multiplies by 1 / (1 - p).
  __device__ __forceinline__ void drop(std::uint32_t (&p)[M][4], int first) const {
    if (!options_.dropout.active()) return;
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const std::uint32_t kept = options_.dropout.kept(warp_first_ + m * 16, first + half * 8);
#pragma unroll
        for (int e = 0; e < 4; ++e)
          if ((kept >> e & 1) == 0) p[m][half * 2 + e / 2] &= e % 2 != 0 ? 0xFFFFu : 0xFFFF0000u;
      }
  }

  // --- results: flash_forward_results.cuh ---

  __device__ __forceinline__ void finish();
  __device__ __forceinline__ void write_row(std::int64_t at,
                                            const typename Terms::Partial& partial) const;
  /// Through the warp's rows of Q in shared memory, so that rows leave in whole chunks.
  __device__ __forceinline__ void write_output(const float (&scale)[R]);

  const FlashForwardCall& call_;
  const FlashSequence sequence_;
  const std::uint32_t shared_;
  const int lane_;
  const int first_, warp_first_, head_;
  const std::uint32_t queries_;  // the warp's rows of Q in shared memory
  const Options options_;
  typename N::template Parameters<float> parameters_;
  float row_scale_[R];
  Terms terms_;
  bool summing_ = kTwoPasses;  // in the first of two passes
  std::conditional_t<kTwoPasses, FinalRows, Nothing> final_;
  float o_[M][kChunks][4];
};

}  // namespace quietformer::cuda

#include "attention/cuda/flash_forward_results.cuh"

namespace quietformer::cuda {

template <class S, class N, class T, int dim, bool general>
__global__ void __launch_bounds__(FlashForward<S, N, T, dim, general>::kThreads,
                                  ForwardShape<dim>::kBlocks)
    flash_forward_kernel(const __grid_constant__ FlashForwardCall call) {
  extern __shared__ __align__(1024) unsigned char shared[];
  FlashForward<S, N, T, dim, general>::run(call, shared_address(shared));
}

}  // namespace quietformer::cuda
