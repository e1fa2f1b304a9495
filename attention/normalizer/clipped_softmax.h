// Clipped softmax: P_j = clip((zeta - gamma) p_j + gamma, 0, 1) with p = softmax(s), gamma <= 0,
// zeta >= 1 (Bondarenko, Nagel, Blankevoort, "Quantizable transformers: removing outliers by
// helping attention heads do nothing", arXiv 2306.12929, eq. 4). Shares of a row below
// -gamma / (zeta - gamma) become exactly 0, so a head does nothing with finite scores.
//
// Nothing is left over for a sink: sink_mass is 0, and a row sum is what the clips leave of 1.
//
// With c_j = 1 where the weight follows p_j and 0 where a clip holds it:
//   dp_j = (zeta - gamma) c_j dP_j    delta = sum_j p_j dp_j    dS_j = p_j (dp_j - delta)
//   dgamma = sum c_j dP_j (1 - p_j)   dzeta = sum c_j dP_j p_j
// On a bound c_j = 1, as torch.clamp has it. With zeta = 1 no share reaches beyond the upper one:
// there c_j = 1 for a share that rounding alone took over it.
#pragma once

#include <array>

#include "attention/normalizer/softmax_row.h"

namespace quietformer {

struct ClippedSoftmax : SoftmaxRow {
  static constexpr std::string_view name = "clipped_softmax";
  static constexpr std::array<HeadParameterInfo, 2> parameters{{
      {"gamma", -0.03, -0.06, -math::kInfinity<double>, 0},
      {"zeta", 1, 1.1, 1},
  }};
  static constexpr bool row_normalised = true;
  static constexpr bool weights_need_final_row = true;
  static constexpr DeltaRule delta_rule = DeltaRule::share_mean;
  static constexpr bool has_element_gradients = true;
  static constexpr bool has_row_gradients = false;
  static constexpr bool clips = true;

  template <class A>
  struct Parameters {
    A gamma, span;  // zeta - gamma
    A high;         // weights before the clip up to this one follow their share
  };

  template <class A>
  QF_HOST_DEVICE static Parameters<A> load(const A* value) {
    return {value[0], value[1] - value[0], value[1] > 1 ? A(1) : math::kInfinity<A>};
  }

  template <class A>
  QF_HOST_DEVICE static Row<A> finish(const Partial<A>& partial, const Parameters<A>&) {
    return {lse_scores(partial)};
  }

  template <class A>
  QF_HOST_DEVICE static RowOutputs<A> outputs(const Partial<A>&, const Row<A>& row,
                                              const Parameters<A>&) {
    return {row.lse, row.lse, 0};
  }

  template <class T, class A>
  QF_HOST_DEVICE static T share(T score, const Row<A>& row, const Parameters<A>&) {
    return part(score, row);
  }

  template <class T, class A>
  QF_HOST_DEVICE static T share_of_product(T x, T factor, const Row<A>& row, const Parameters<A>&) {
    return part_of_product(x, factor, row);
  }

  template <class T, class A>
  QF_HOST_DEVICE static T weight_of(T share, const Parameters<A>& parameters) {
    const T weight = unclipped(share, parameters);
    return weight < 0 ? T(0) : (weight > 1 ? T(1) : weight);
  }

  template <class T, class A>
  QF_HOST_DEVICE static bool follows(T share, const Parameters<A>& parameters) {
    const T weight = unclipped(share, parameters);
    return weight >= 0 && weight <= T(parameters.high);
  }

  template <class T, class A>
  QF_HOST_DEVICE static T weight(T score, const Row<A>& row, const Parameters<A>& parameters) {
    return weight_of(share(score, row, parameters), parameters);
  }

  template <class T, class A>
  QF_HOST_DEVICE static T delta_term(const Element<T>& element, const Row<A>&,
                                     const Parameters<A>& parameters) {
    return T(parameters.span) * element.dweight;
  }

  template <class T, class A>
  QF_HOST_DEVICE static T dscore(const Element<T>& element, T delta, const Row<A>&,
                                 const Parameters<A>& parameters) {
    return element.share * (T(parameters.span) * element.dweight - delta);
  }

  template <class T, class A>
  QF_HOST_DEVICE static T element_gradient(int k, const Element<T>& element, T, const Row<A>&,
                                           const Parameters<A>&) {
    return element.dweight * (k == 0 ? 1 - element.share : element.share);
  }

 private:
  template <class T, class A>
  QF_HOST_DEVICE static T unclipped(T share, const Parameters<A>& parameters) {
    return T(parameters.span) * share + T(parameters.gamma);
  }
};

}  // namespace quietformer
