// How an implementation finds its way through a problem's tensors: sequences, heads and rows,
// packed or not. Shared by the CPU implementations.
#pragma once

#include "attention/attention.h"
#include "attention/normalizer/normalizer.h"
#include "attention/row_passes.h"

namespace quietformer {

/// A matrix with unit inner stride.
template <class T>
struct Rows {
  T* data = nullptr;
  std::int64_t stride = 0;
  T* operator[](std::int64_t i) const { return data + i * stride; }
  explicit operator bool() const { return data != nullptr; }
};

/// Which part of the tensors one sequence owns. Without packing: all rows of one batch entry.
struct Sequence {
  std::int64_t index;  // what bias, masks, slopes and dropout are indexed by
  std::int64_t batch;  // index into the batch dimension of q, k, v, o: 0 when packed
  std::int64_t first_query, queries, first_key, keys;

  Sequence(const AttentionProblem& p, std::int64_t b)
      : index(b),
        batch(b),
        first_query(0),
        queries(p.q.shape[2]),
        first_key(0),
        keys(p.k.shape[2]) {
    if (!p.packed()) return;
    const std::int32_t *q = p.cu_seqlens_q.as<std::int32_t>(),
                       *k = p.cu_seqlens_k.as<std::int32_t>();
    batch = 0;
    first_query = q[b], queries = q[b + 1] - q[b];
    first_key = k[b], keys = k[b + 1] - k[b];
  }

  /// Rows of one head from row `first` of a (B, heads, length, features) tensor, counted from the
  /// start of the batch entry (first_query + i, first_key + j); absent stays absent.
  template <class T>
  Rows<T> rows(const Tensor& tensor, std::int64_t head, std::int64_t first) const {
    if (!tensor) return {};
    return {tensor.as<T>() + batch * tensor.stride[0] + head * tensor.stride[1] +
                first * tensor.stride[2],
            tensor.stride[2]};
  }

  /// Element of a contiguous (B, H, L) output.
  std::int64_t row_index(const AttentionProblem& p, std::int64_t head, std::int64_t i) const {
    return (batch * p.heads() + head) * p.q.shape[2] + first_query + i;
  }

  /// Row i of a (B|1, H|1, L|1, S|1) tensor, from key `first` on.
  template <class T>
  RowView<T> broadcast_row(const Tensor& tensor, std::int64_t head, std::int64_t i,
                           std::int64_t first = 0) const {
    if (!tensor) return {};
    const auto step = [&](int dim) { return tensor.shape[dim] == 1 ? 0 : tensor.stride[dim]; };
    return {tensor.as<T>() + index * step(0) + head * step(1) + i * step(2) + first * step(3),
            step(3)};
  }
};

/// One query head: its parameters and ALiBi slope (0 without).
template <class N, class T>
struct QueryHead {
  std::int64_t index;
  typename N::template Parameters<double> parameters;
  T slope = 0;

  QueryHead(const AttentionProblem& p, const Sequence& sequence, std::int64_t head) : index(head) {
    double values[kMaxHeadParameters] = {};
    for (std::size_t k = 0; k < N::parameters.size(); ++k) {
      const Tensor& tensor = p.head_parameters[k];
      values[k] = tensor ? double(tensor.as<T>()[head]) : double(N::parameters[k].default_value);
    }
    parameters = N::load(values);
    if (const Tensor& slopes = p.alibi_slopes)
      slope = slopes.shape.rank == 1
                  ? slopes.as<T>()[head * slopes.stride[0]]
                  : slopes.as<T>()[sequence.index * slopes.stride[0] + head * slopes.stride[1]];
  }
};

/// Bias, ALiBi and masks on the scaled products of row i, which sits at `position`. `scores` and
/// `keys` count from key `first` of the sequence.
template <class T>
void adjust_scores(const AttentionProblem& p, const Sequence& sequence, std::int64_t head, T slope,
                   std::int64_t i, std::int64_t position, T* scores, KeyRange keys,
                   std::int64_t first = 0) {
  if (const auto bias = sequence.broadcast_row<T>(p.bias, head, i, first))
    add_bias(scores, keys, bias);
  if (p.alibi_slopes) subtract_alibi(scores, keys, slope, position - first);
  if (const auto mask = sequence.broadcast_row<std::uint8_t>(p.mask, head, i, first))
    hide(scores, keys, mask, -math::kInfinity<T>);
  if (p.key_padding) {
    const Tensor& padding = p.key_padding;
    hide(scores, keys,
         RowView<std::uint8_t>{padding.as<std::uint8_t>() + sequence.index * padding.stride[0] +
                                   first * padding.stride[1],
                               padding.stride[1]},
         -math::kInfinity<T>);
  }
}

}  // namespace quietformer
