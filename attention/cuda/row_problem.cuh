// Device side of row_problem.h: whose a row is, which keys it sees, and what the options do to its
// scores and weights. Queries i and keys j count from the start of their sequence.
#pragma once

#include "attention/cuda/head_parameters.cuh"
#include "attention/cuda/row_problem.h"
#include "core/math.h"

namespace quietformer::cuda {

/// The sequence that a row belongs to. Without packing a sequence is a batch entry.
struct SequencePlace {
  int index;                          // what bias, masks, slopes and dropout are indexed by
  std::int64_t first_query, queries;  // its rows of q
  std::int64_t first_key, keys;       // its rows of k
  QF_HOST_DEVICE std::int64_t position(std::int64_t i) const { return i + keys - queries; }
};

/// Sequence `index`.
template <class T>
__device__ SequencePlace sequence_at(const RowProblem<T>& p, int index) {
  if (p.cu_queries == nullptr) return {index, 0, p.queries, 0, p.keys};
  const std::int64_t q = p.cu_queries[index], k = p.cu_keys[index];
  return {index, q, p.cu_queries[index + 1] - q, k, p.cu_keys[index + 1] - k};
}

/// The sequence of row `row` of batch entry `batch`.
template <class T>
__device__ SequencePlace sequence_of(const RowProblem<T>& p, int batch, std::int64_t row) {
  return sequence_at(p, p.cu_queries == nullptr ? batch : owner_of(p.cu_queries, p.sequences, row));
}

/// Keys that causality and window let query i see: Band::keys() of its sequence.
template <class T>
__device__ KeyRange visible_keys(const RowProblem<T>& p, const SequencePlace& s, std::int64_t i) {
  const auto clamp = [&](std::int64_t at) { return at < 0 ? 0 : (at > s.keys ? s.keys : at); };
  const std::int64_t begin = clamp(s.position(i) - p.left),
                     end = clamp(s.position(i) + p.right + 1);
  return {begin < end ? begin : end, end};
}

/// What bias, ALiBi and masks make of the scaled products of one row.
template <class T>
class RowScores {
 public:
  __device__ RowScores(const RowProblem<T>& p, const SequencePlace& s, int head, std::int64_t i)
      : mask_(row(p.mask, s, head, i)),
        padding_(row(p.key_padding, s, head, i)),
        bias_(row(p.bias, s, head, i)),
        position_(s.position(i)),
        slope_(p.slopes.data != nullptr ? *row(p.slopes, s, head, i).data : T(0)) {}

  /// -inf where mask or padding hide key j.
  __device__ T operator()(T product, std::int64_t j) const {
    if (bias_.data != nullptr) product += bias_[j];
    if (slope_ != 0) {
      const T distance = static_cast<T>(position_ - j);
      product -= slope_ * (distance < 0 ? -distance : distance);
    }
    const bool hidden =
        (mask_.data != nullptr && mask_[j] == 0) || (padding_.data != nullptr && padding_[j] == 0);
    return hidden ? -math::kInfinity<T> : product;
  }

 private:
  template <class U>
  static __device__ RowView<U> row(const BroadcastView<const U>& t, const SequencePlace& s,
                                   int head, std::int64_t i) {
    if (t.data == nullptr) return {};
    return {t.data + s.index * t.batch + head * t.head + i * t.query, t.key};
  }

  RowView<std::uint8_t> mask_, padding_;
  RowView<T> bias_;
  std::int64_t position_;
  T slope_;
};

/// The factors 0 or 1 / (1 - p) of keys j to j + 3 of query i; j is a multiple of 4.
template <class T>
__device__ void dropout_factors(const RowProblem<T>& p, int sequence, int head, std::int64_t i,
                                std::int64_t j, T (&factors)[4]) {
  const StreamPlace place = p.stream.now();
  const Philox4 bits =
      dropout_bits(place.key, place.first_sample + static_cast<std::uint32_t>(sequence),
                   static_cast<std::uint32_t>(head), static_cast<std::uint32_t>(i),
                   static_cast<std::uint32_t>(j));
#pragma unroll
  for (int k = 0; k < 4; ++k) factors[k] = bits.word[k] >= p.threshold ? p.kept : T(0);
}

}  // namespace quietformer::cuda
