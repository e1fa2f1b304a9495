// What a normaliser policy must provide.
//
// A normaliser turns the scores of one row into weights. To add one: write NAME.h in this folder
// with a `struct Name` (some_name.h holds SomeName) that models NormalizerPolicy, and add NAME to
// CMakeLists.txt. Every implementation, the registry, the gradient tests and the benchmarks follow.
//
// Policies are mathematics only: no loops over keys, no memory, no threads; host and device share
// them. T is the type of scores and weights (float, double), A the type of accumulators (double in
// the CPU reference, float on a GPU). Loops over keys convert A to T, never per element back.
//
// Constants
//   name                    the config's word for it
//   parameters              std::array<HeadParameterInfo, K>, K <= kMaxHeadParameters
//
//   row_normalised          there is a row denominator: Partial, finish() and outputs() exist, and
//                           backward needs one saved value per row
//
//   weights_need_final_row  weights exist only once all scores of the row were seen (as a clip
//                           would need), so the product with v waits; otherwise weight = term *
//                           scale and tiles add up on the way (softmax). Read when row_normalised
//
//   delta_rule              the row constant of the gradient, see DeltaRule
//   has_element_gradients   some parameter's gradient has a contribution from every element
//   has_row_gradients       some parameter's gradient has a contribution from every row
//   clips                   the weight is a clipped function of a share of the row, which hides
//   what
//                           gradients are made of
//
// Per head
//   Parameters<A>           what the loops need of the parameters
//   load(const A* value)    from one value per entry of `parameters`
//
// Per row, only when row_normalised. A score of -inf is a hidden key and must change nothing.
//   Partial<A>              default-constructed: no key seen yet. Never contains the sink, so that
//                           partial rows merge and the sink is counted once
//   prepared(max)           no key seen yet, prepared for scores up to `max`
//   raise(partial, max)     prepares for scores up to `max`; returns the factor by which everything
//                           accumulated so far must be multiplied (partial has done so with
//                           itself). GPU kernels raise late, when a sum of terms has become large:
//                           terms of scores above the last `max` must be good, too
//   term(score, partial)    unnormalised weight of a score
//   reference(partial)      the `max` of the last raise(), -inf before
//   score_of(term, partial) the score that has this term, for kernels that raise late
//   add(partial, sum)       a sum of terms; for weights_need_final_row terms serve this sum alone
//   term_sum(partial)       all that add() got, in units of the last raise()
//   merge(a, b)             the same from two disjoint sets of keys
//   finish(partial, parameters) -> Row<A>     all that weight() needs to know about the row
//   scale(partial, parameters) -> A           term -> weight; not when weights_need_final_row
//   outputs(partial, row, parameters) -> RowOutputs<A>
//   saved(row) -> A, restore(A) -> Row<A>     the value kept for backward
//
// Per element. weight(-inf) must be 0, and dscore, delta_term and element_gradient with it.
//   weight(score, row, parameters)
//   share(score, row, parameters)             these three where `clips` alone: weight() is
//   weight_of(share, parameters)              weight_of(share()); share(-inf) must be 0
//   follows(share, parameters) -> bool        no clip holds the weight
//   delta_term(element, row, parameters)      DeltaRule::share_mean only
//   dscore(element, delta, row, parameters)   the gradient of the score
//
// Where the score is a product, optional and for GPUs, whose exp takes a factor for nothing:
//   term_of_product(x, factor, partial)       term(factor * x, partial)
//   weight_of_product(x, factor, row, parameters)
//   share_of_product(x, factor, row, parameters)
//   weights_of_products(x, factor, row, parameters)   of four scores at once, in place
//   small_weight_of_product(x, factor, row, parameters)   a quicker one, for scores up to
//   small_up_to(parameters) -> A
//
// Gradients of the parameters, summed over rows by the caller in A
//   element_gradient(k, element, dscore, row, parameters) -> T    has_element_gradients
//   row_gradients(A* sum, delta, row, parameters)       has_row_gradients: adds to sum[k]
#pragma once

#include <concepts>
#include <cstdint>
#include <string_view>

#include "attention/attention.h"
#include "attention/mask.h"
#include "core/dtype.h"

namespace quietformer {

/// The row constant delta_i that dscore() gets.
enum class DeltaRule : std::uint8_t {
  none,        // 0
  output_dot,  // do_i . o_i, which equals sum_j P_ij dP_ij, dropout or not
  // The mean of delta_term_ij over the row, weighted by the shares. These sum up to 1 but for
  // rounding, which then cancels where few keys count. Costs another pass over the row.
  share_mean,
};

/// Statistics of a finished row, as AttentionProblem defines them.
template <class A>
struct RowOutputs {
  A lse, lse_scores, sink_mass;
};

/// One (i, j) in backward: its share of the row, which is its weight unless the normaliser clips;
/// its weight before dropout; and the gradient of that weight, 0 where a clip holds it.
template <class T>
struct Element {
  T share, weight, dweight;
};

/// The row of a normaliser without row denominator.
template <class A>
struct NoRow {};

namespace normalizer_contract {

// clang-format off
template <class N>
concept Describes = requires {
  { N::name } -> std::convertible_to<std::string_view>;
  { N::parameters[0] } -> std::convertible_to<HeadParameterInfo>;
  { N::row_normalised } -> std::convertible_to<bool>;
  { N::weights_need_final_row } -> std::convertible_to<bool>;
  { N::delta_rule } -> std::convertible_to<DeltaRule>;
  { N::has_element_gradients } -> std::convertible_to<bool>;
  { N::has_row_gradients } -> std::convertible_to<bool>;
  { N::clips } -> std::convertible_to<bool>;
  requires N::parameters.size() <= kMaxHeadParameters;
};

template <class N, class A>
concept Loads = requires(const A* value) {
  { N::load(value) } -> std::same_as<typename N::template Parameters<A>>;
};

template <class N, class T, class A>
concept SumsRows = !N::row_normalised || requires(
    T score, A value, typename N::template Partial<A> partial, typename N::template Row<A> row,
    typename N::template Parameters<A> parameters) {
  { N::prepared(value) } -> std::same_as<typename N::template Partial<A>>;
  { N::raise(partial, value) } -> std::same_as<A>;
  { N::term(score, partial) } -> std::same_as<T>;
  { N::reference(partial) } -> std::same_as<A>;
  { N::score_of(value, partial) } -> std::same_as<A>;
  N::add(partial, value);
  { N::term_sum(partial) } -> std::same_as<A>;
  { N::merge(partial, partial) } -> std::same_as<typename N::template Partial<A>>;
  { N::finish(partial, parameters) } -> std::same_as<typename N::template Row<A>>;
  { N::outputs(partial, row, parameters) } -> std::same_as<RowOutputs<A>>;
  { N::saved(row) } -> std::same_as<A>;
  { N::restore(value) } -> std::same_as<typename N::template Row<A>>;
};

template <class N, class A>
concept Scales = !N::row_normalised || N::weights_need_final_row || requires(
    typename N::template Partial<A> partial, typename N::template Parameters<A> parameters) {
  { N::scale(partial, parameters) } -> std::same_as<A>;
};

template <class N, class T, class A>
concept Weighs = requires(T score, typename N::template Row<A> row,
                          typename N::template Parameters<A> parameters) {
  { N::weight(score, row, parameters) } -> std::same_as<T>;
} && (!N::clips || requires(T score, typename N::template Row<A> row,
                            typename N::template Parameters<A> parameters) {
  { N::share(score, row, parameters) } -> std::same_as<T>;
  { N::weight_of(score, parameters) } -> std::same_as<T>;
  { N::follows(score, parameters) } -> std::same_as<bool>;
});

template <class N, class T, class A>
concept Differentiates = requires(T delta, Element<T> element, typename N::template Row<A> row,
                                  typename N::template Parameters<A> parameters) {
  { N::dscore(element, delta, row, parameters) } -> std::same_as<T>;
} && (N::delta_rule != DeltaRule::share_mean || requires(
    Element<T> element, typename N::template Row<A> row,
    typename N::template Parameters<A> parameters) {
  { N::delta_term(element, row, parameters) } -> std::same_as<T>;
});

template <class N, class T, class A>
concept DifferentiatesParameters = (!N::has_element_gradients || requires(
    T dscore, Element<T> element, typename N::template Row<A> row,
    typename N::template Parameters<A> parameters) {
  { N::element_gradient(0, element, dscore, row, parameters) } -> std::same_as<T>;
}) && (!N::has_row_gradients || requires(
    A* sum, A delta, typename N::template Row<A> row,
    typename N::template Parameters<A> parameters) {
  N::row_gradients(sum, delta, row, parameters);
});
// clang-format on

}  // namespace normalizer_contract

template <class N>
concept NormalizerPolicy = normalizer_contract::Describes<N> &&
    normalizer_contract::Loads<N, double> && normalizer_contract::SumsRows<N, float, double> &&
    normalizer_contract::Scales<N, double> && normalizer_contract::Weighs<N, float, double> &&
    normalizer_contract::Differentiates<N, float, double> &&
    normalizer_contract::DifferentiatesParameters<N, float, double>;

/// DeltaRule::share_mean: the sums over a row.
template <class A>
struct DeltaSums {
  A terms = 0, shares = 0;
  QF_HOST_DEVICE A mean() const { return shares > 0 ? terms / shares : A(0); }
};

/// The element of a score; `dweight` may be anything where the key is hidden.
template <class N, class T, class Row, class Parameters>
QF_HOST_DEVICE Element<T> element_of(T score, T dweight, const Row& row,
                                     const Parameters& parameters) {
  dweight = visible_gradient(score, dweight);
  if constexpr (N::clips) {
    const T share = N::share(score, row, parameters);
    return {share, N::weight_of(share, parameters), N::follows(share, parameters) ? dweight : T(0)};
  } else {
    const T weight = N::weight(score, row, parameters);
    return {weight, weight, dweight};
  }
}

}  // namespace quietformer
