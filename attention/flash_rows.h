// Passes of `flash` over one row of a tile. `row` points at the tile's first key; `columns` are
// whole vectors, hidden keys among them have score -inf.
//
// None is inlined: compiled once, a sum has one order of additions whatever the options of the
// caller are, and no caller's control flow keeps a loop from being vectorised.
#pragma once

#include "attention/mask.h"
#include "attention/normalizer/normalizer.h"

namespace quietformer::flash_rows {

/// Scores to terms.
template <class N, class T>
[[gnu::noinline]] void terms(T* row, KeyRange columns,
                             typename N::template Partial<double> partial) {
#pragma omp simd
  for (std::int64_t j = columns.begin; j < columns.end; ++j) row[j] = N::term(row[j], partial);
}

/// Scores to weights.
template <class N, class T>
[[gnu::noinline]] void weights(T* row, KeyRange columns, typename N::template Row<double> state,
                               typename N::template Parameters<double> parameters) {
#pragma omp simd
  for (std::int64_t j = columns.begin; j < columns.end; ++j)
    row[j] = N::weight(row[j], state, parameters);
}

/// Scores and gradients of weights to weights and gradients of scores, which may replace them.
template <class N, class T>
[[gnu::noinline]] void differentiate(const T* scores, const T* dweights, KeyRange columns, T delta,
                                     typename N::template Row<double> state,
                                     typename N::template Parameters<double> parameters, T* weights,
                                     T* dscores) {
#pragma omp simd
  for (std::int64_t j = columns.begin; j < columns.end; ++j) {
    const Element<T> element = element_of<N>(scores[j], dweights[j], state, parameters);
    dscores[j] = N::dscore(element, delta, state, parameters);
    weights[j] = element.weight;
  }
}

/// The row's part of the gradient of parameter k.
template <class N, class T>
[[gnu::noinline]] double element_gradients(int k, const T* scores, const T* weights,
                                           const T* dweights, const T* dscores, KeyRange columns,
                                           typename N::template Row<double> state,
                                           typename N::template Parameters<double> parameters) {
  double total = 0;
#pragma omp simd reduction(+ : total)
  for (std::int64_t j = columns.begin; j < columns.end; ++j) {
    Element<T> element{weights[j], weights[j], visible_gradient(scores[j], dweights[j])};
    if constexpr (N::clips) element = element_of<N>(scores[j], dweights[j], state, parameters);
    total += double(N::element_gradient(k, element, dscores[j], state, parameters));
  }
  return total;
}

/// DeltaRule::share_mean: the row's sums.
template <class N, class T>
[[gnu::noinline]] DeltaSums<double> delta_sums(const T* scores, const T* dweights, KeyRange columns,
                                               typename N::template Row<double> state,
                                               typename N::template Parameters<double> parameters) {
  double terms = 0, shares = 0;
#pragma omp simd reduction(+ : terms, shares)
  for (std::int64_t j = columns.begin; j < columns.end; ++j) {
    const Element<T> element = element_of<N>(scores[j], dweights[j], state, parameters);
    terms += double(element.share * N::delta_term(element, state, parameters));
    shares += double(element.share);
  }
  return {terms, shares};
}

/// totals += row
template <class T>
[[gnu::noinline]] void add_to(double* totals, const T* row, KeyRange columns) {
#pragma omp simd
  for (std::int64_t j = columns.begin; j < columns.end; ++j) totals[j] += double(row[j]);
}

}  // namespace quietformer::flash_rows
