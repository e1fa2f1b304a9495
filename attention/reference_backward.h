// Backward of the reference; see reference.h.
#pragma once

#include "attention/backward_sums.h"
#include "attention/reference_task.h"

namespace quietformer {

template <class S, class N, class T>
void ReferenceTask<S, N, T>::backward() const {
  const Rows<T> dk = key_rows(p_.dk), dk2 = key_rows(p_.dk2), dv = key_rows(p_.dv);
  zero_key_rows(dk, dim_);
  zero_key_rows(dk2, dim_);
  zero_key_rows(dv, value_dim_);
  const Rows<T> unit_dk{scratch(layout_.key_grads), dim_};
  if constexpr (kUnit) zero_key_rows(unit_dk, dim_);
  for (std::int64_t g = 0; g < group_; ++g) {
    const Head h = head(kv_head_ * group_ + g);
    for_each_block([&](const Block& b) { backward_block(h, b); });
  }
  if (kUnit && dk) {
    const Rows<T> given = key_rows(p_.k);
    l2norm_backward_rows(dk.data, dk.stride, unit_dk.data, unit_dk.stride, given.data, given.stride,
                         sequence_.keys, dim_, p_.groups);
  }
}

/// Sums of one (sequence, head): parameter gradients, then the gradient of scale.
template <class S, class N, class T>
double* ReferenceTask<S, N, T>::sums(const Head& h) const {
  return reinterpret_cast<double*>(workspace_ + layout_.partials) +
         (sequence_.index * p_.heads() + h.index) * (kMaxHeadParameters + 1);
}

template <class S, class N, class T>
void ReferenceTask<S, N, T>::backward_block(const Head& h, const Block& b) const {
  const Rows<T> d_out = query_rows(p_.do_, h, b);
  const std::int64_t begin = b.keys.begin, keys = b.keys.size();
  scores(h, b);
  gemm_serial<T>(b.count, keys, value_dim_, T(1), d_out.data, d_out.stride, Transpose::no,
                 v_[begin], v_.stride, Transpose::yes, grads_.data + begin, grads_.stride,
                 Accumulate::overwrite);
  for (std::int64_t r = 0; r < b.count; ++r) {
    const KeyRange visible = band_.keys(b.begin + r);
    zero_outside(weights_[r], visible, b.keys);
    zero_outside(grads_[r], visible, b.keys);
    backward_row(h, b.begin + r, d_out[r], weights_[r], grads_[r], visible);
  }
  if (const Rows<T> dv = key_rows(p_.dv))
    gemm_serial<T>(keys, value_dim_, b.count, T(1), weights_.data + begin, weights_.stride,
                   Transpose::yes, d_out.data, d_out.stride, Transpose::no, dv[begin], dv.stride,
                   Accumulate::add);
  Rows<T> dk = key_rows(p_.dk);
  if (kUnit && dk) dk = {scratch(layout_.key_grads), dim_};
  if constexpr (S::pairs == 2) {
    split_pairs(b);
    pair_gradients(h, b, weights_, query_rows(p_.q2, h, b), k2_, p_.dq2, key_rows(p_.dk2));
  }
  pair_gradients(h, b, grads_, operand_rows(h, b), k_, p_.dq, dk);
}

/// Weights and their gradients of one row become dropped weights and gradients of the scores.
template <class S, class N, class T>
void ReferenceTask<S, N, T>::backward_row(const Head& h, std::int64_t i, const T* d_out, T* weights,
                                          T* grads, KeyRange keys) const {
  adjust(h, i, weights, keys);
  const T* factors = dropout_ ? dropout_factors(h, i, keys) : nullptr;
  if (dropout_) multiply(grads, keys, factors);
  typename N::template Row<double> row{};
  if constexpr (N::row_normalised) row = N::restore(double(p_.row_state.as<T>()[row_index(h, i)]));
  double do_dot_o = 0;
  if constexpr (N::delta_rule == DeltaRule::output_dot) {
    const T* out = sequence_.rows<T>(p_.o, h.index, sequence_.first_query + i).data;
    do_dot_o = sum_keys({0, value_dim_},
                        [&](std::int64_t c) { return double(d_out[c]) * double(out[c]); });
  }
  differentiate_row<N>(weights, grads, keys, do_dot_o, row, h.parameters, sums(h));
  if (p_.dbias)
    add_bias_gradient(p_, sequence_, h.index, i, grads, keys,
                      reinterpret_cast<double*>(workspace_ + layout_.dbias));
  if (dropout_) multiply(weights, keys, factors);
}

/// Gradients of one pair (q, k) from the gradients of its scores.
template <class S, class N, class T>
void ReferenceTask<S, N, T>::pair_gradients(const Head& h, const Block& b, Rows<T> grads, Rows<T> q,
                                            Rows<T> k, const Tensor& dq, Rows<T> dk) const {
  const std::int64_t begin = b.keys.begin, keys = b.keys.size();
  if (dk)
    gemm_serial<T>(keys, dim_, b.count, T(p_.scale), grads.data + begin, grads.stride,
                   Transpose::yes, q.data, q.stride, Transpose::no, dk[begin], dk.stride,
                   Accumulate::add);
  if (!dq && !p_.dscale) return;
  gemm_serial<T>(b.count, dim_, keys, T(1), grads.data + begin, grads.stride, Transpose::no,
                 k[begin], k.stride, Transpose::no, scratch(layout_.query_grads), dim_,
                 Accumulate::overwrite);
  query_gradient(h, b, q, query_rows(dq, h, b));
}

/// From dS k in scratch: dscale += q . (dS k), and dq.
template <class S, class N, class T>
void ReferenceTask<S, N, T>::query_gradient(const Head& h, const Block& b, Rows<T> q,
                                            Rows<T> dq) const {
  const Rows<T> product{scratch(layout_.query_grads), dim_};
  const T scale = T(p_.scale);
  for (std::int64_t r = 0; r < b.count; ++r) {
    T* row = product[r];
    if (p_.dscale)
      sums(h)[kMaxHeadParameters] +=
          sum_keys({0, dim_}, [&](std::int64_t c) { return double(row[c]) * double(q[r][c]); });
    if (!dq) continue;
    if constexpr (kUnit) {
      for (std::int64_t c = 0; c < dim_; ++c) row[c] *= scale;
    } else {
      for (std::int64_t c = 0; c < dim_; ++c) dq[r][c] = scale * row[c];
    }
  }
  if constexpr (kUnit) {
    const Rows<T> given = query_rows(p_.q, h, b);
    if (dq)
      l2norm_backward_rows(dq.data, dq.stride, product.data, product.stride, given.data,
                           given.stride, b.count, dim_, p_.groups);
  }
}

/// Parts the score gradients in grads_: far ones go to weights_, near ones stay; zeros elsewhere.
template <class S, class N, class T>
void ReferenceTask<S, N, T>::split_pairs(const Block& b) const {
  for (std::int64_t r = 0; r < b.count; ++r) {
    const std::int64_t end = std::clamp(far_end(b.begin + r), b.keys.begin, b.keys.end);
    T *far = weights_[r], *near = grads_[r];
    std::copy(near + b.keys.begin, near + end, far + b.keys.begin);
    std::fill(far + end, far + b.keys.end, T(0));
    std::fill(near + b.keys.begin, near + end, T(0));
  }
}

template <class S, class N, class T>
void ReferenceTask<S, N, T>::zero_key_rows(Rows<T> matrix, std::int64_t width) const {
  if (!matrix) return;
  for (std::int64_t j = 0; j < sequence_.keys; ++j) std::fill_n(matrix[j], width, T(0));
}

}  // namespace quietformer
