// What a warpgroup of the forward for compute capability 9.0 does to the scores of its 64 rows:
// hidden keys, row state, weights. Lane l of warp w holds rows 16 w + l / 4 and 8 further, see
// wgmma.cuh.
#pragma once

#include <type_traits>

#include "attention/cuda/hopper/shape.cuh"
#include "attention/cuda/hopper/tiles.cuh"
#include "attention/normalizer/normalizer.h"
#include "core/math.h"

namespace quietformer::cuda {

template <class S, class N, class T, int dim>
class HopperScores {
 protected:
  using Shape = HopperShape<S, dim>;
  using Parameters = typename N::template Parameters<float>;
  static constexpr bool kUnit = Shape::kUnit;
  static constexpr int kKeys = Shape::kKeys;
  static constexpr float kHidden = -math::kInfinity<float>;
  static constexpr float kFollowAt = 8;  // e^8 and a sum of them fit f16 and f32
  using KeyTilesOf = KeyTiles<S, kKeys>;

  struct Nothing {};
  template <class P, bool present>
  struct PartialOf {
    using Type = Nothing;
  };
  template <class P>
  struct PartialOf<P, true> {
    using Type = typename P::template Partial<float>;
  };
  using Partial = typename PartialOf<N, N::row_normalised>::Type;
  using Row = typename N::template Row<float>;
  using Scores = float[kKeys / 8][4];
  using Weights = std::uint32_t[kKeys / 16][4];

  // Where products leave little time, weights take fewer special functions and more arithmetic.
  static constexpr bool kSharesReciprocal =
      dim <= 64 && requires(float (&x)[4], typename N::template Parameters<float> p) {
    N::weights_of_products(x, 1.0f, Row{}, p);
  };
  // Cosines bound scores by the scale, which then is every row's reference: terms are between
  // e^(-2 scale) and 1, which bf16 holds up to this scale.
  static constexpr float kLargestBound = 32;
  static constexpr bool kMayBeBounded = kUnit && N::row_normalised && std::is_same_v<T, Bf16>;
  static constexpr bool kKnowsSmall =
      !kUnit && dim <= 64 && requires(typename N::template Parameters<float> p) {
    N::small_up_to(p);
  };

  __device__ __forceinline__ explicit HopperScores(const FlashForwardCall& call)
      : call_(call),
        lane_(static_cast<int>(threadIdx.x) % 32),
        group_(static_cast<int>(threadIdx.x) / 128 - 1),
        warp_(static_cast<int>(threadIdx.x) / 32 % 4),
        all_lanes_(__activemask()),
        bound_known_(kMayBeBounded && call.scale <= kLargestBound) {}

  __device__ __forceinline__ void clear_rows() {
    partial_[0] = partial_[1] = Partial{};
    if constexpr (kMayBeBounded)
      if (bound_known_) partial_[0] = partial_[1] = N::prepared(call_.scale);
  }

  /// Products, columns scaled, to weights. True where O must be multiplied by factor_.
  __device__ __forceinline__ bool weigh_tile(Scores& s, const KeyTilesOf& keys) {
    if (keys.first < of_pair(all_begin_, keys) || keys.first + kKeys > of_pair(all_end_, keys))
      hide(s, keys);
    bool raised = false;
    if constexpr (N::row_normalised)
      if (!bound_known_) raised = follow(s);
    if constexpr (kKnowsSmall) {
      if (all_small(s)) {
        weigh<true>(s);
        return false;
      }
    }
    weigh<false>(s);
    return raised;
  }

  /// Registers have no index at run time.
  static __device__ __forceinline__ int of_pair(const int (&values)[S::pairs],
                                                const KeyTilesOf& keys) {
    return S::pairs == 2 && keys.pair == 1 ? values[S::pairs - 1] : values[0];
  }

  __device__ __forceinline__ void scale_columns(Scores& s, std::uint32_t norms) const {
    norms += lane_ % 4 * 8;
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
      float left, right;
      load_shared(left, right, norms + n * 32);
      s[n][0] *= left, s[n][1] *= right;
      s[n][2] *= left, s[n][3] *= right;
    }
    __syncwarp();
  }

  /// How many of this lane's 32 columns of a tile come before column `end`.
  __device__ __forceinline__ int columns_before(int end) const {
    const int column = min(max(end - lane_ % 4 * 2, 0), kKeys);
    return column / 8 * 2 + min(column % 8, 2);
  }

  __device__ __forceinline__ void hide(Scores& s, const KeyTilesOf& keys) const {
    const PairDistances& distances = call_.distances;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int position = first_row_ + r * 8 + lane_ / 4 + call_.keys - call_.queries - keys.first;
      const int begin = columns_before(position - distances.high[keys.pair]),
                end = columns_before(
                    min(position - distances.low[keys.pair] + 1, call_.keys - keys.first));
      // Bit i: column i is visible.
      std::uint32_t visible;
      asm("bmsk.clamp.b32 %0, %1, %2;" : "=r"(visible) : "r"(begin), "r"(max(end - begin, 0)));
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e)
          if ((visible >> (n * 2 + e) & 1) == 0) s[n][r * 2 + e] = kHidden;
    }
  }

  __device__ __forceinline__ float factor_of(int r) const {
    if constexpr (kUnit)
      return row_scale_[r];
    else
      return call_.scale;
  }

  static __device__ __forceinline__ float over_row(float value) {
    value = fmaxf(value, __shfl_xor_sync(0xFFFFFFFFu, value, 1));
    return fmaxf(value, __shfl_xor_sync(0xFFFFFFFFu, value, 2));
  }

  /// Raises the references of rows whose scores have outgrown them; false where none has.
  __device__ __forceinline__ bool follow(const Scores& s) {
    float high[2];
    bool outgrown = false;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float even = kHidden, odd = kHidden;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n)
        even = fmaxf(even, s[n][r * 2]), odd = fmaxf(odd, s[n][r * 2 + 1]);
      high[r] = fmaxf(even, odd) * factor_of(r);
      outgrown |= high[r] > N::reference(partial_[r]) + kFollowAt;
    }
    if (!__any_sync(0xFFFFFFFFu, outgrown)) return false;
#pragma unroll
    for (int r = 0; r < 2; ++r) factor_[r] = N::raise(partial_[r], over_row(high[r]));
    return true;
  }

  /// Whether all weights of a tile are small; the warp decides together.
  __device__ __forceinline__ bool all_small(const Scores& s) const {
    float highs[4] = {kHidden, kHidden, kHidden, kHidden};
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) highs[e] = fmaxf(highs[e], s[n][e]);
    const float high = fmaxf(fmaxf(highs[0], highs[1]), fmaxf(highs[2], highs[3]));
    return __all_sync(0xFFFFFFFFu, high * call_.scale <= N::small_up_to(parameters_)) != 0;
  }

  template <bool small>
  __device__ __forceinline__ void weigh_row(float (&x)[4], int r) const {
    if constexpr (N::row_normalised) {
#pragma unroll
      for (float& value : x) value = N::term_of_product(value, factor_of(r), partial_[r]);
    } else if constexpr (small) {
#pragma unroll
      for (float& value : x)
        value = N::small_weight_of_product(value, factor_of(r), Row{}, parameters_);
    } else if constexpr (kSharesReciprocal) {
      N::weights_of_products(x, factor_of(r), Row{}, parameters_);
    } else {
#pragma unroll
      for (float& value : x) value = N::weight_of_product(value, factor_of(r), Row{}, parameters_);
    }
  }

  /// Scores to terms of the row state or to weights, in place, and their sums.
  template <bool small>
  __device__ __forceinline__ void weigh(Scores& s) {
#pragma unroll
    for (int n = 0; n < kKeys / 8; n += 2)
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int e = r * 2;
        float x[4] = {s[n][e], s[n][e + 1], s[n + 1][e], s[n + 1][e + 1]};
        weigh_row<small>(x, r);
        s[n][e] = x[0], s[n][e + 1] = x[1], s[n + 1][e] = x[2], s[n + 1][e + 1] = x[3];
        if constexpr (N::row_normalised) N::add(partial_[r], (x[0] + x[1]) + (x[2] + x[3]));
      }
  }

  /// The assembler, too, moves weights behind the wait for the products that they should run under,
  /// unless something stands between that needs them: all lanes wait for all lanes, whatever the
  /// signs of weights say.
  __device__ __forceinline__ void stay_behind_weights(const Scores& s) const {
    int signs = 0;
    if constexpr (kSharesReciprocal) {
      return;  // they come in blocks of their own
    } else if constexpr (N::row_normalised) {
      signs = __float_as_int(N::term_sum(partial_[0])) | __float_as_int(N::term_sum(partial_[1]));
    } else {
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) signs |= __float_as_int(s[n][e]);
    }
    asm volatile("bar.warp.sync %0;" ::"r"(signs < 0 ? all_lanes_ : 0xFFFFFFFFu) : "memory");
  }

  static __device__ __forceinline__ void pack(Weights& p, const Scores& s) {
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        p[k][i] = T::pack(s[2 * k + i / 2][i % 2 * 2], s[2 * k + i / 2][i % 2 * 2 + 1]);
  }

  const FlashForwardCall& call_;
  const int lane_, group_, warp_;
  const unsigned all_lanes_;
  const bool bound_known_;

  // Of the tile of queries.
  int head_, batch_, first_row_;                 // of the warp
  int begin_[S::pairs], end_[S::pairs];          // keys that some row of the group takes
  int all_begin_[S::pairs], all_end_[S::pairs];  // keys that all of them take
  Parameters parameters_;
  float row_scale_[2];
  Partial partial_[2];
  float factor_[2];  // of weigh_tile()
};

}  // namespace quietformer::cuda
