// The online state of a lane's rows in the forward kernel. Row r of a lane is row 8 r + lane / 4 of
// its warp; four lanes hold a row and see different keys of it.
//
// Terms are e^(score - reference), and the reference need not be the maximum: sums are f32 and P
// has floating point, so scores may exceed it by far. It is the maximum of the first tile with a
// key. From then on the row's sum of terms, needed anyway, says when scores have outgrown it, and
// the next tile raises it: no maximum, no shuffle in the tiles between. A row that grows within one
// tile by more than P holds makes the block start again, carefully: every tile then has its maximum
// taken before its terms.
#pragma once

#include <type_traits>

#include "attention/cuda/mma.cuh"
#include "attention/normalizer/normalizer.h"
#include "core/math.h"

namespace quietformer::cuda {

/// Of a normaliser without row state: weights and, where somebody asks, their sums.
template <class N, class T, int R, bool = N::row_normalised>
class RowTerms {
 public:
  struct Partial {};

  __device__ __forceinline__ void start() {
#pragma unroll
    for (int r = 0; r < R; ++r) sum_[r] = 0;
  }
  __device__ __forceinline__ bool must_start_again() {
    return false;
  }
  __device__ __forceinline__ void add(int r, float sum) {
    sum_[r] += sum;
  }

  /// Over the four lanes of each row: that of row lane % 4, of no meaning where that is none.
  __device__ __forceinline__ float merge() {
    float own = 0;
#pragma unroll
    for (int r = 0; r < R; ++r) {
      float sum = sum_[r] + __shfl_xor_sync(0xFFFFFFFFu, sum_[r], 1);
      sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 2);
      if (static_cast<int>(threadIdx.x) % 4 == r) own = sum;
    }
    return own;
  }

 private:
  float sum_[R];
};

template <class N, class T, int R>
class RowTerms<N, T, R, true> {
  // A row whose sum of terms passes the first gets a new reference; P and O hold terms up to the
  // second.
  static constexpr float kFollowAt = std::is_same_v<T, Bf16> ? 0x1p40f : 0x1p13f,
                         kLargestTerm = std::is_same_v<T, Bf16> ? 0x1p64f : 60000.0f;

 public:
  using Partial = typename N::template Partial<float>;

  __device__ __forceinline__ void start() {
#pragma unroll
    for (Partial& partial : partial_) partial = Partial{};
    outgrown_ = false;
    wants_maximum_ = true;
  }

  /// A row of the block outgrew what P holds. All threads of the block call together.
  __device__ __forceinline__ bool must_start_again() {
    if (careful_) return false;
#pragma unroll
    for (const Partial& partial : partial_) outgrown_ |= N::term_sum(partial) > kLargestTerm;
    careful_ = __syncthreads_or(outgrown_) != 0;
    return careful_;
  }

  __device__ __forceinline__ const Partial& operator[](int r) const {
    return partial_[r];
  }
  __device__ __forceinline__ void add(int r, float sum) {
    N::add(partial_[r], sum);
  }

  /// raise() must come before the terms of the tile; the same for a warp.
  __device__ __forceinline__ bool wants_maximum() const {
    return wants_maximum_;
  }

  /// Raises references to the maxima of a tile, or to where sums of terms are moderate. In: the
  /// lane's largest scores. Out: what everything accumulated so far must be multiplied by; false
  /// where that is nothing. `rows` of the warp exist.
  __device__ __forceinline__ bool raise(float (&high)[R], int rows) {
    bool empty = true;
#pragma unroll
    for (int r = 0; r < R; ++r) {
      high[r] = over_row(high[r], [](float a, float b) { return fmaxf(a, b); });
      empty &= N::reference(partial_[r]) == kNone && N::term_sum(partial_[r]) == 0;
    }
    const bool start = __all_sync(0xFFFFFFFFu, empty);
    if (start) {
#pragma unroll
      for (int r = 0; r < R; ++r) partial_[r] = N::prepared(high[r]);
    } else {
      follow(high);
    }
    bool missing = careful_;
#pragma unroll
    for (int r = 0; r < R; ++r)
      missing |= N::reference(partial_[r]) == kNone &&
                 r * 8 + static_cast<int>(threadIdx.x) % 32 / 4 < rows;
    wants_maximum_ = __any_sync(0xFFFFFFFFu, missing);
    return !start;
  }

  /// After the terms of a tile: have scores outgrown the references?
  __device__ __forceinline__ void look_at_sums() {
    float highest = 0;
#pragma unroll
    for (const Partial& partial : partial_) highest = fmaxf(highest, N::term_sum(partial));
    if (__any_sync(0xFFFFFFFFu, highest > kFollowAt)) wants_maximum_ = true;
  }

  /// Merged over the four lanes of each row, which share its reference: that of row lane % 4, of no
  /// meaning where that is none.
  __device__ __forceinline__ Partial merge() const {
    float sum = 0, reference = kNone;
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const float row_sum =
                      over_row(N::term_sum(partial_[r]), [](float a, float b) { return a + b; }),
                  row_reference = N::reference(partial_[r]);
      const bool mine = static_cast<int>(threadIdx.x) % 4 == r;
      sum = mine ? row_sum : sum;
      reference = mine ? row_reference : reference;
    }
    Partial own = N::prepared(reference);
    N::add(own, sum);
    return own;
  }

 private:
  static constexpr float kNone = -math::kInfinity<float>;  // the reference of no key

  /// raise() of rows that hold terms. In: maxima of rows.
  __device__ __forceinline__ void follow(float (&high)[R]) {
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const float sum = over_row(N::term_sum(partial_[r]), [](float a, float b) { return a + b; });
      outgrown_ |= sum > kLargestTerm;
      if (sum > kFollowAt) high[r] = fmaxf(high[r], N::score_of(sum / 64, partial_[r]));
      high[r] = N::raise(partial_[r], high[r]);
    }
  }

  template <class F>
  __device__ __forceinline__ static float over_row(float value, F&& f) {
    value = f(value, __shfl_xor_sync(0xFFFFFFFFu, value, 1));
    return f(value, __shfl_xor_sync(0xFFFFFFFFu, value, 2));
  }

  Partial partial_[R];
  bool wants_maximum_;
  bool outgrown_;         // terms have become larger than P holds
  bool careful_ = false;  // every tile wants its maximum
};

}  // namespace quietformer::cuda
