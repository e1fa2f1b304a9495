// Forward of the reference; see reference.h.
#pragma once

#include "attention/reference_task.h"

namespace quietformer {

template <class S, class N, class T>
void ReferenceTask<S, N, T>::forward() const {
  for (std::int64_t g = 0; g < group_; ++g) {
    const Head h = head(kv_head_ * group_ + g);
    if (p_.total_attention) std::fill_n(totals(), sequence_.keys, 0.0);
    for_each_block([&](const Block& b) { forward_block(h, b); });
    if (p_.total_attention) {
      T* out = p_.total_attention.as<T>() +
               (sequence_.batch * p_.heads() + h.index) * p_.k.shape[2] + sequence_.first_key;
      for (std::int64_t j = 0; j < sequence_.keys; ++j) out[j] = T(totals()[j]);
    }
  }
}

template <class S, class N, class T>
void ReferenceTask<S, N, T>::forward_block(const Head& h, const Block& b) const {
  scores(h, b);
  for (std::int64_t r = 0; r < b.count; ++r) {
    const KeyRange keys = band_.keys(b.begin + r);
    zero_outside(weights_[r], keys, b.keys);
    forward_row(h, b.begin + r, weights_[r], keys);
  }
  const Rows<T> o = query_rows(p_.o, h, b);
  gemm_serial<T>(b.count, value_dim_, b.keys.size(), T(1), weights_.data + b.keys.begin,
                 weights_.stride, Transpose::no, v_[b.keys.begin], v_.stride, Transpose::no, o.data,
                 o.stride, Accumulate::overwrite);
}

template <class S, class N, class T>
void ReferenceTask<S, N, T>::forward_row(const Head& h, std::int64_t i, T* row,
                                         KeyRange keys) const {
  adjust(h, i, row, keys);
  weigh_row<N>(row, keys, h.parameters, [&](const auto& partial, const auto& final_row) {
    record_row(h, i, partial, final_row);
  });
  record_weights(h, i, row, keys);
  if (dropout_) multiply(row, keys, dropout_factors(h, i, keys));
}

/// The outputs that see the row's denominator.
template <class S, class N, class T>
template <class Partial, class Row>
void ReferenceTask<S, N, T>::record_row(const Head& h, std::int64_t i, const Partial& partial,
                                        const Row& row) const {
  const auto write = [at = row_index(h, i)](const Tensor& tensor, double value) {
    if (tensor) tensor.as<T>()[at] = T(value);
  };
  write(p_.row_state, N::saved(row));
  if (!p_.lse && !p_.lse_scores && !p_.sink_mass) return;  // these cost logarithms
  const RowOutputs<double> outputs = N::outputs(partial, row, h.parameters);
  write(p_.lse, outputs.lse);
  write(p_.lse_scores, outputs.lse_scores);
  write(p_.sink_mass, outputs.sink_mass);
}

/// The optional outputs that see the weights, before dropout.
template <class S, class N, class T>
void ReferenceTask<S, N, T>::record_weights(const Head& h, std::int64_t i, const T* weights,
                                            KeyRange keys) const {
  if (p_.row_sum)
    p_.row_sum.as<T>()[row_index(h, i)] =
        T(sum_keys(keys, [&](std::int64_t j) { return weights[j]; }));
  if (p_.total_attention)
    for (std::int64_t j = keys.begin; j < keys.end; ++j) totals()[j] += double(weights[j]);
  if (p_.weights) {
    T* out = p_.weights.as<T>() + row_index(h, i) * sequence_.keys;
    std::copy(weights + keys.begin, weights + keys.end, out + keys.begin);
    zero_outside(out, keys, {0, sequence_.keys});
  }
}

}  // namespace quietformer
