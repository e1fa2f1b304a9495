// What the weights warps of flash_backward.cuh do: S^T, P^T and dV, with the options of scores and
// weights. See there.
#pragma once

#include "attention/cuda/flash_backward.cuh"
#include "attention/cuda/weight_of.cuh"

namespace quietformer::cuda {

template <class S, class N, class T, int dim, bool general>
__device__ __forceinline__ void FlashBackward<S, N, T, dim, general>::weigh(int pair,
                                                                            const Place& place) {
  const std::uint32_t queries = queries_of(place), out_gradients = queries + kQueryBytes;
#pragma unroll 1
  for (int first = 0; first < kQueries; first += kStep) {
    Scores s;
    Tile::template multiply<T>(s, own_rows(0),
                               queries + static_cast<std::uint32_t>(first) * kRowBytes);
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
        add_products(
            now[c],
            out_gradients + static_cast<std::uint32_t>(first + half * kHalf + c * 16) * kRowBytes);
      }
    }
  }
}

template <class S, class N, class T, int dim, bool general>
__device__ __forceinline__ void FlashBackward<S, N, T, dim, general>::hand_over(
    const Words (&words)[2], const Place& place, int query) const {
  if constexpr (!N::clips)
#pragma unroll
    for (int c = 0; c < 2; ++c) store_words(words[c], place, query + c * 16);
  wait_at(kHanded + team_ * 2 + query / kHalf, 2 * kLanes);
}

template <class S, class N, class T, int dim, bool general>
__device__ __forceinline__ void FlashBackward<S, N, T, dim, general>::scale_rows(Scores& s) const {
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float norm = key_norm(m, r);
#pragma unroll
      for (int n = 0; n < kStep / 8; ++n) s[m][n][2 * r] *= norm, s[m][n][2 * r + 1] *= norm;
    }
}

template <class S, class N, class T, int dim, bool general>
__device__ __forceinline__ void FlashBackward<S, N, T, dim, general>::hide(Scores& s, int pair,
                                                                           int first) const {
  const int low = call_.distances.low[pair], high = call_.distances.high[pair];
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

template <class S, class N, class T, int dim, bool general>
__device__ __forceinline__ void FlashBackward<S, N, T, dim, general>::make_weights(
    Words (&p)[2], Scores& s, int half, const Place& place, int first) const {
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
        for (int e = 0; e < 4; ++e)
          x[e] = weight_of<N>(x[e], factor[e % 2], rows[e % 2], parameters_);
      }
      [[maybe_unused]] std::uint32_t handed[2];
      if constexpr (N::clips) clip(x, handed);
      std::uint32_t(&to)[4] = p[n % 4 / 2][m];
      to[n % 2 * 2] = T::pack(x[0], x[1]), to[n % 2 * 2 + 1] = T::pack(x[2], x[3]);
      if constexpr (general) mark_dropped(to, n % 2 * 2, m, place, first + n * 8);
      if constexpr (N::clips)
#pragma unroll
        for (int r = 0; r < 2; ++r)
          store_shared(own_word(place, m, r, first + n * 8),
                       handed[r] | (to[n % 2 * 2 + r] & 0x80008000u));
    }
  }
}

template <class S, class N, class T, int dim, bool general>
__device__ __forceinline__ void FlashBackward<S, N, T, dim, general>::weigh_general(
    float (&x)[4], const float (&factor)[2], const Row (&rows)[2], int m, const Place& place,
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
    if constexpr (N::clips)
      x[e] = N::share(score, rows[e % 2], parameters_);
    else
      x[e] = N::weight(score, rows[e % 2], parameters_);
  }
}

template <class S, class N, class T, int dim, bool general>
__device__ __forceinline__ void FlashBackward<S, N, T, dim, general>::clip(
    float (&x)[4], std::uint32_t (&handed)[2]) const {
  handed[0] = T::pack(x[0], x[1]), handed[1] = T::pack(x[2], x[3]);
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    // A hidden key has share 0, and follows nothing.
    if (x[e] == 0 || !N::follows(x[e], parameters_))
      handed[e / 2] |= e % 2 == 0 ? 0x8000u : 0x80000000u;
    x[e] = N::weight_of(x[e], parameters_);
  }
}

template <class S, class N, class T, int dim, bool general>
__device__ __forceinline__ void FlashBackward<S, N, T, dim, general>::mark_dropped(
    std::uint32_t (&words)[4], int at, int m, const Place& place, int query) const {
  const DropoutOptions dropout(call_.options, sequence_, place.head);
  if (!dropout.active()) return;
  const std::uint32_t kept =
      dropout.kept_transposed(place.tile * kQueries + query, warp_key_ - lane_ / 4 + m * 16);
#pragma unroll
  for (int e = 0; e < 4; ++e)
    if ((kept >> e & 1) == 0) words[at + e / 2] |= e % 2 == 0 ? 0x8000u : 0x80000000u;
}

template <class S, class N, class T, int dim, bool general>
__device__ __forceinline__ void FlashBackward<S, N, T, dim, general>::drop(Words& words) {
#pragma unroll
  for (auto& fragment : words)
#pragma unroll
    for (std::uint32_t& word : fragment) {
      if (word & 0x8000u) word &= 0xFFFF0000u;
      if (word & 0x80000000u) word &= 0xFFFFu;
    }
}

}  // namespace quietformer::cuda
