// What the gradients warps of flash_backward.cuh do, dP^T, dS^T and dK, and what all warps make of
// dS: dQ, dbias, sums of parameter gradients. See there.
#pragma once

#include "attention/cuda/flash_backward.cuh"

namespace quietformer::cuda {

template <class S, class N, class T, int dim, bool general>
__device__ __forceinline__ void FlashBackward<S, N, T, dim, general>::differentiate(
    const Place& place) {
  const std::uint32_t queries = queries_of(place);
#pragma unroll 1
  for (int first = 0; first < kQueries; first += kStep) {
    Scores s;
    Tile::template multiply<T>(
        s, own_rows(kValuesAt),
        queries + kQueryBytes + static_cast<std::uint32_t>(first) * kRowBytes);
#pragma unroll
    for (int half = 0; half < kStep / kHalf; ++half) {
      wait_at(kHanded + team_ * 2 + (first + half * kHalf) / kHalf, 2 * kLanes);
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        Words words;
        make_gradients(words, s, half * 2 + c, place, first);
        add_products(
            words, queries + static_cast<std::uint32_t>(first + half * kHalf + c * 16) * kRowBytes);
        // Behind the products, whose loads it would hold up; of unit operands the words differ.
        if constexpr (!kUnit) store_words(words, place, first + half * kHalf + c * 16);
      }
    }
  }
}

template <class S, class N, class T, int dim, bool general>
__device__ __forceinline__ void FlashBackward<S, N, T, dim, general>::make_gradients(
    Words& words, const Scores& dweights, int c, const Place& place, int first) {
  const int query = first + c * 16;
  // All loads come first: a store before them would hold them up.
  Row rows[2][2];
  float delta[2][2] = {}, norm[2][2] = {{1, 1}, {1, 1}}, own_norm[kM][2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {  // 8 queries
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int r = 0; r < 2; ++r)
        words[m][half * 2 + r] = load_word(own_word(place, m, r, query + half * 8));
    load_rows(rows[half], place, query + half * 8);
    if constexpr (N::delta_rule != DeltaRule::none)
      load_pair(delta[half], place, 1, query + half * 8);
    if constexpr (kUnit) load_pair(norm[half], place, 2, query + half * 8);
  }
  if constexpr (kUnit)
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int r = 0; r < 2; ++r) own_norm[m][r] = bounded(key_norm(m, r));

#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        std::uint32_t& word = words[m][half * 2 + r];
        float gradient[2];
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float weight = e == 0 ? T::low(word) : T::high(word);
          float dweight = dweights[m][c * 2 + half][2 * r + e];
          if constexpr (general) {
            if (call_.options.dropout) {
              dweight = std::signbit(weight) ? 0.0f : dweight * call_.options.kept;
              if constexpr (!N::clips) weight = fabsf(weight);
            }
          }
          if constexpr (N::clips) {  // what came is a share
            if (std::signbit(weight)) dweight = 0;
            weight = fabsf(weight);
          }
          const Element<float> element{weight, N::clips ? math::kNaN<float> : weight, dweight};
          // dP of a hidden key may be anything, even infinite.
          gradient[e] = element.share == 0
                            ? 0.0f
                            : N::dscore(element, delta[half][e], rows[half][e], parameters_);
          if constexpr (kSums > 0)
#pragma unroll
            for (int k = 0; k < kSums; ++k)
              element_sums_[k] +=
                  N::element_gradient(k, element, gradient[e], rows[half][e], parameters_);
          if constexpr (general)
            add_bias_gradient(gradient[e], place.head,
                              place.tile * kQueries + query + half * 8 + lane_ % 4 * 2 + e,
                              warp_key_ + m * 16 + r * 8);
        }
        if constexpr (kUnit) {
          store_shared(own_word(place, m, r, query + half * 8),
                       T::pack(gradient[0] * own_norm[m][r], gradient[1] * own_norm[m][r]));
          word =
              T::pack(gradient[0] * bounded(norm[half][0]), gradient[1] * bounded(norm[half][1]));
        } else {
          word = T::pack(gradient[0], gradient[1]);
        }
      }
}

template <class S, class N, class T, int dim, bool general>
__device__ __forceinline__ float FlashBackward<S, N, T, dim, general>::bounded(float inverse_norm) {
  return std::is_same_v<T, F16> ? fminf(inverse_norm, 4096.0f) : inverse_norm;
}

template <class S, class N, class T, int dim, bool general>
__device__ __forceinline__ void FlashBackward<S, N, T, dim, general>::add_bias_gradient(
    float gradient, int head, int i, int j) const {
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
  if (!leader || (to.query != 0 && i >= sequence_.queries) || (to.key != 0 && j >= sequence_.keys))
    return;
  const std::int64_t at = sequence_.index * to.batch + head * to.head + i * to.query + j * to.key;
  if (!call_.bias_in_order)
    atomicAdd(const_cast<float*>(to.data) + at, gradient);
  else if (call_.bias_copies)
    call_.bias_copy[(std::int64_t{slot_} * kTeams + team_) * call_.bias_count + at] += gradient;
  else
    const_cast<float*>(to.data)[at] += gradient;
}

template <class S, class N, class T, int dim, bool general>
__device__ __forceinline__ void FlashBackward<S, N, T, dim, general>::write_element_sums(int pair,
                                                                                         int head) {
  if constexpr (kSums > 0) {
    float* const to =
        call_.element_partials +
        (((std::int64_t{sequence_.batch} * call_.heads + head) * call_.key_slots + slot_) * kTeams *
             S::pairs +
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

template <class S, class N, class T, int dim, bool general>
__device__ __forceinline__ void FlashBackward<S, N, T, dim, general>::add_query_gradients(
    int pair, const Place& place) const {
  static_assert(kQueries / 32 * (dim / 32) == 2 * kTeams);
  const int queries = warp_ / (dim / 32), features = warp_ % (dim / 32);
  float c[2][4][4] = {};
  // Matrices of dS: queries 0, 8 and keys 0, 8; of K: keys 0, 8 and features 0, 8.
  const int matrix = lane_ / 8, line = lane_ % 8;
  const std::uint32_t a = score_at(place, matrix / 2 * 8 + line, queries * 4 + matrix % 2),
                      b = Tile::chunk_address(shared_, matrix % 2 * 8 + line,
                                              features * 4 + matrix / 2);
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
      ((std::int64_t{sequence_.batch} * call_.heads + place.head) * call_.query_slots + slot) * 2 *
          kTeams +
      warp_;
  float* const sums = call_.query_sums[pair] + block * kSumBlock;
  if (call_.turns[pair] == nullptr) {
    add_to_block(sums, c, lane_);
    return;
  }
  // As many blocks come before as there are tiles of keys that the queries see and before mine.
  const int first_seen = max(place.tile * kQueries + offset_ - call_.distances.high[pair], 0);
  const unsigned turn = static_cast<unsigned>(sequence_.tile - first_seen / kKeys);
  if (lane_ == 0) wait_for_turn(call_.turns[pair] + block, turn);
  __syncwarp();
  add_to_block(sums, c, lane_);
  __syncwarp();
  if (lane_ == 0) pass_turn(call_.turns[pair] + block, turn);
}

}  // namespace quietformer::cuda
