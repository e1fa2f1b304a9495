// The reference's passes over one row of scores: forward to weights, backward to gradients.
//
// `scores` points at key 0 of the row; only keys in range are read and written here.
#pragma once

#include "attention/normalizer/normalizer.h"
#include "attention/row_passes.h"

namespace quietformer {

/// Scores to weights, in place. A normaliser with a row denominator hands its statistics to
/// on_row(partial, row).
template <class N, class T, class F>
void weigh_row(T* scores, KeyRange keys, const typename N::template Parameters<double>& parameters,
               F&& on_row) {
  if constexpr (N::row_normalised) {
    typename N::template Partial<double> partial;
    N::raise(partial, double(max_score(scores, keys)));
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t j = keys.begin; j < keys.end; ++j) {
      const T term = N::term(scores[j], partial);
      if constexpr (!N::weights_need_final_row) scores[j] = term;
      sum += double(term);
    }
    N::add(partial, sum);
    const auto row = N::finish(partial, parameters);
    if constexpr (N::weights_need_final_row) {
#pragma omp simd
      for (std::int64_t j = keys.begin; j < keys.end; ++j)
        scores[j] = N::weight(scores[j], row, parameters);
    } else {
      const T scale = T(N::scale(partial, parameters));
#pragma omp simd
      for (std::int64_t j = keys.begin; j < keys.end; ++j) scores[j] *= scale;
    }
    on_row(partial, row);
  } else {
    const typename N::template Row<double> row;
#pragma omp simd
    for (std::int64_t j = keys.begin; j < keys.end; ++j)
      scores[j] = N::weight(scores[j], row, parameters);
  }
}

/// Gradients of one row. In: `scores`, and in `grads` the gradients of the weights (dropout
/// applied). Out: weights in `scores`, gradients of the scores in `grads`; parameter gradients are
/// added to parameter_sums. `do_dot_o` is used by DeltaRule::output_dot alone.
template <class N, class T>
void differentiate_row(T* scores, T* grads, KeyRange keys, double do_dot_o,
                       const typename N::template Row<double>& row,
                       const typename N::template Parameters<double>& parameters,
                       double* parameter_sums) {
  const auto element = [&](std::int64_t j) {
    return element_of<N>(scores[j], grads[j], row, parameters);
  };
  double delta = 0;
  if constexpr (N::delta_rule == DeltaRule::output_dot) delta = do_dot_o;
  if constexpr (N::delta_rule == DeltaRule::share_mean) {
    DeltaSums<double> sums;
    sums.terms = sum_keys(keys, [&](std::int64_t j) {
      const Element<T> e = element(j);
      return e.share * N::delta_term(e, row, parameters);
    });
    sums.shares = sum_keys(keys, [&](std::int64_t j) { return element(j).share; });
    delta = sums.mean();
  }
  const T shift = T(delta);
  if constexpr (N::has_element_gradients) {
    for (std::size_t k = 0; k < N::parameters.size(); ++k)
      parameter_sums[k] += sum_keys(keys, [&](std::int64_t j) {
        const Element<T> e = element(j);
        return N::element_gradient(int(k), e, N::dscore(e, shift, row, parameters), row,
                                   parameters);
      });
  }
  if constexpr (N::has_row_gradients) N::row_gradients(parameter_sums, delta, row, parameters);
#pragma omp simd
  for (std::int64_t j = keys.begin; j < keys.end; ++j) {
    const Element<T> e = element(j);
    grads[j] = N::dscore(e, shift, row, parameters);
    scores[j] = e.weight;
  }
}

}  // namespace quietformer
