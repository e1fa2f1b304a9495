// softmax_n: P_j = exp(s_j) / (n + exp(theta) + sum_j exp(s_j)), real n >= 0, any real theta.
//
// n > 0 lets a row attend to nothing: it acts as n more keys of score 0 and value 0 (n = 1: Miller,
// "Attention is off by one", 2023). theta is a learned sink logit, one more key of score theta and
// value 0. Both at their defaults: ordinary softmax.
//
// The row keeps max and sum of the visible scores alone (softmax_row.h); the sink, of logarithm
// ln(n + exp(theta)), enters at the end. No sign or size of score, n or theta overflows.
//
// With L = ln of the denominator and delta = do.o = sum_j P_j dP_j:
//   dS_j = P_j (dP_j - delta)    dn = -exp(-L) delta    dtheta = -exp(theta - L) delta
#pragma once

#include <array>

#include "attention/normalizer/softmax_row.h"
#include "core/math.h"

namespace quietformer {

struct SoftmaxN : SoftmaxRow {
  static constexpr std::string_view name = "softmax_n";
  static constexpr std::array<HeadParameterInfo, 2> parameters{{
      {"n", 0, 0.7, 0},
      {"sink_logit", -math::kInfinity<double>, 0.4, -math::kInfinity<double>},
  }};
  static constexpr bool row_normalised = true;
  static constexpr bool weights_need_final_row = false;
  static constexpr DeltaRule delta_rule = DeltaRule::output_dot;
  static constexpr bool has_element_gradients = false;
  static constexpr bool has_row_gradients = true;
  static constexpr bool clips = false;

  template <class A>
  struct Parameters {
    A sink_logit;
    A log_sink;  // ln(n + exp(theta)), -inf without sink
  };

  template <class A>
  QF_HOST_DEVICE static Parameters<A> load(const A* value) {
    return {value[1], math::logaddexp(math::log(value[0]), value[1])};
  }

  template <class A>
  QF_HOST_DEVICE static Row<A> finish(const Partial<A>& partial, const Parameters<A>& parameters) {
    return {math::logaddexp(lse_scores(partial), parameters.log_sink)};
  }

  /// 1 / (sum + exp(ln sink - max)): the sink in units of the row's exp(max). It overflows only
  /// where the weights underflow. More exact than exp(max - L) when L is large.
  template <class A>
  QF_HOST_DEVICE static A scale(const Partial<A>& partial, const Parameters<A>& parameters) {
    if (!(partial.sum > 0)) return 0;
    return 1 / (partial.sum + math::exp(parameters.log_sink - partial.max));
  }

  template <class A>
  QF_HOST_DEVICE static RowOutputs<A> outputs(const Partial<A>& partial, const Row<A>& row,
                                              const Parameters<A>& parameters) {
    return {row.lse, lse_scores(partial), share(parameters.log_sink, row)};
  }

  template <class T, class A>
  QF_HOST_DEVICE static T weight(T score, const Row<A>& row, const Parameters<A>&) {
    return part(score, row);
  }

  template <class T, class A>
  QF_HOST_DEVICE static T weight_of_product(T x, T factor, const Row<A>& row,
                                            const Parameters<A>&) {
    return part_of_product(x, factor, row);
  }

  template <class T, class A>
  QF_HOST_DEVICE static T dscore(const Element<T>& element, T delta, const Row<A>&,
                                 const Parameters<A>&) {
    return element.weight * (element.dweight - delta);
  }

  template <class A>
  QF_HOST_DEVICE static void row_gradients(A* sum, A delta, const Row<A>& row,
                                           const Parameters<A>& parameters) {
    // delta is exactly 0 for rows that see no key; then 1/Z may be infinite.
    if (delta == 0) return;
    sum[0] -= math::exp(-row.lse) * delta;
    sum[1] -= share(parameters.sink_logit, row) * delta;
  }

 private:
  /// exp(logit - L): the part of the denominator that a key of this logit makes up.
  template <class A>
  QF_HOST_DEVICE static A share(A logit, const Row<A>& row) {
    return row.lse > -math::kInfinity<A> ? math::exp(logit - row.lse) : A(0);
  }
};

}  // namespace quietformer
