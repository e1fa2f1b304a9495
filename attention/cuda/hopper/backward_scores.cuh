// What a warpgroup of backward.cuh does between the products: hidden keys, weights, gradients of
// scores, dS^T for the products behind. See there. Lane l of warp w holds keys 16 w + l / 4 and 8
// further, queries 8 n + l % 4 * 2 and the next.
#pragma once

#include "attention/cuda/hopper/backward.cuh"
#include "attention/cuda/weight_of.cuh"

namespace quietformer::cuda {

template <class S, class N, class T, int dim>
__device__ __forceinline__ bool HopperBackward<S, N, T, dim>::hides() const {
  const int pair = tile_.flags & QueryTile::kFar ? S::pairs - 1 : 0;
  const int offset = call_.keys - call_.queries, first = tile_.first_key + group_ * 64 + warp_ * 16,
            end = first + 16;
  const int nearest = tile_.first_query + offset - (end - 1),
            farthest = min(tile_.first_query + kQueries, call_.queries) - 1 + offset - first;
  return nearest < call_.distances.low[pair] || farthest > call_.distances.high[pair] ||
         end > call_.keys;
}

template <class S, class N, class T, int dim>
__device__ __forceinline__ void HopperBackward<S, N, T, dim>::hide(Scores& s, float value) const {
  const int pair = tile_.flags & QueryTile::kFar ? S::pairs - 1 : 0;
  // An empty interval hides all.
  const unsigned width =
      static_cast<unsigned>(max(call_.distances.high[pair] - call_.distances.low[pair] + 1, 0));
  const int key = own_key(), distance = tile_.first_query + call_.keys - call_.queries +
                                        lane_ % 4 * 2 - key - call_.distances.low[pair];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const bool exists = key + r * 8 < call_.keys;
#pragma unroll
    for (int n = 0; n < kQueries / 8; ++n)
#pragma unroll
      for (int e = 0; e < 2; ++e)
        if (!exists || static_cast<unsigned>(distance + n * 8 + e - r * 8) >= width)
          s[n][2 * r + e] = value;
  }
}

template <class S, class N, class T, int dim>
__device__ __forceinline__ void HopperBackward<S, N, T, dim>::weigh(Scores& s) const {
  if constexpr (kUnit)
#pragma unroll
    for (auto& x : s)
      x[0] *= key_norm_[0], x[1] *= key_norm_[0], x[2] *= key_norm_[1], x[3] *= key_norm_[1];
  if (hides()) hide(s, -math::kInfinity<float>);
#pragma unroll
  for (int n = 0; n < kQueries / 8; ++n) {
    Row rows[2];
    load_rows(rows, n);
    float norm[2] = {1, 1};
    if constexpr (kUnit) load_pair(norm, Shape::kNorm, n);
#pragma unroll
    for (int e = 0; e < 4; ++e)
      s[n][e] = weight_of<N>(s[n][e], kUnit ? call_.scale * norm[e % 2] : call_.scale, rows[e % 2],
                             parameters_);
  }
}

template <class S, class N, class T, int dim>
__device__ __forceinline__ void HopperBackward<S, N, T, dim>::differentiate(Scores& dp,
                                                                            const Words& p) {
  // dP of a hidden key may be anything, and so may the row's delta.
  const bool hidden = hides();
  if (hidden) hide(dp, 0);
#pragma unroll
  for (int n = 0; n < kQueries / 8; ++n) {
    Row rows[2];
    load_rows(rows, n);
    float delta[2] = {};
    if constexpr (Shape::kHasDelta) load_pair(delta, Shape::kDelta, n);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const std::uint32_t word = p[n / 2][n % 2 * 2 + e / 2];
      const float weight = e % 2 == 0 ? T::low(word) : T::high(word);
      const Element<float> element{weight, weight, dp[n][e]};
      const Row& row = rows[e % 2];
      dp[n][e] = N::dscore(element, delta[e % 2], row, parameters_);
      if constexpr (kSums > 0)
#pragma unroll
        for (int k = 0; k < kSums; ++k)
          element_sums_[k] += N::element_gradient(k, element, dp[n][e], row, parameters_);
    }
  }
  if (hidden) hide(dp, 0);
}

template <class S, class N, class T, int dim>
__device__ __forceinline__ void HopperBackward<S, N, T, dim>::pack(Words& words, const Scores& s) {
#pragma unroll
  for (int k = 0; k < kQueries / 16; ++k)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      words[k][i] = T::pack(s[2 * k + i / 2][i % 2 * 2], s[2 * k + i / 2][i % 2 * 2 + 1]);
}

template <class S, class N, class T, int dim>
__device__ __forceinline__ void HopperBackward<S, N, T, dim>::pack_for_keys(Words& words,
                                                                            const Scores& s) const {
  if constexpr (!kUnit) {
    pack(words, s);
  } else {
#pragma unroll
    for (int n = 0; n < kQueries / 8; ++n) {
      float norm[2];
      load_pair(norm, Shape::kNorm, n);
      norm[0] = bounded(norm[0]), norm[1] = bounded(norm[1]);
#pragma unroll
      for (int r = 0; r < 2; ++r)
        words[n / 2][n % 2 * 2 + r] = T::pack(s[n][2 * r] * norm[0], s[n][2 * r + 1] * norm[1]);
    }
  }
}

template <class S, class N, class T, int dim>
__device__ __forceinline__ void HopperBackward<S, N, T, dim>::store_gradients(
    const Scores& s) const {
  float norm[2] = {1, 1};
  if constexpr (kUnit) norm[0] = bounded(key_norm_[0]), norm[1] = bounded(key_norm_[1]);
  // Matrices: keys 0 and 8 of the warp's, of queries 0 and 8.
  const int key = group_ * 64 + warp_ * 16 + lane_ / 8 % 2 * 8 + lane_ % 8, chunk = lane_ / 16;
  const std::uint32_t row = gradients_at() + key * 128;
#pragma unroll
  for (int k = 0; k < kQueries / 16; ++k) {
    std::uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float(&x)[4] = s[2 * k + i / 2];
      const int r = i % 2;
      words[i] = kUnit ? T::pack(x[2 * r] * norm[r], x[2 * r + 1] * norm[r])
                       : T::pack(x[2 * r], x[2 * r + 1]);
    }
    store_matrices(row + k / 4 * (kKeys * 128) + (((k % 4 * 2 + chunk) ^ key) & 7) * 16, words);
  }
  fence_before_boxes();  // wgmma reads as TMA writes: past the caches of ordinary accesses
}

}  // namespace quietformer::cuda
