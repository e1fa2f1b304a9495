// Sigmoid attention: P_j = 1 / (1 + exp(-(s_j + b))), every key by itself (Ramapuram et al.,
// "Theory, analysis, and best practices for sigmoid self-attention", arXiv 2409.04431). b is
// usually -ln(context) so that a row sums to about 1 at the start.
//
//   dS_j = P_j (1 - P_j) dP_j    db = sum dS
#pragma once

#include <array>

#include "attention/normalizer/normalizer.h"
#include "core/math.h"

namespace quietformer {

struct Sigmoid {
  static constexpr std::string_view name = "sigmoid";
  static constexpr std::array<HeadParameterInfo, 1> parameters{{
      {"sigmoid_bias", 0, -1.3, -math::kInfinity<double>},
  }};
  static constexpr bool row_normalised = false;
  static constexpr bool weights_need_final_row = false;
  static constexpr DeltaRule delta_rule = DeltaRule::none;
  static constexpr bool has_element_gradients = true;
  static constexpr bool has_row_gradients = false;
  static constexpr bool clips = false;

  template <class A>
  struct Parameters {
    A bias;
  };

  template <class A>
  QF_HOST_DEVICE static Parameters<A> load(const A* value) {
    return {value[0]};
  }

  template <class A>
  using Row = NoRow<A>;

  template <class T, class A>
  QF_HOST_DEVICE static T weight(T score, const Row<A>&, const Parameters<A>& parameters) {
    return math::sigmoid(score + T(parameters.bias));
  }

  template <class T, class A>
  QF_HOST_DEVICE static T weight_of_product(T x, T factor, const Row<A>&,
                                            const Parameters<A>& parameters) {
    return math::sigmoid_affine(x, factor, T(parameters.bias));
  }

  template <class T, class A>
  QF_HOST_DEVICE static void weights_of_products(T (&x)[4], T factor, const Row<A>&,
                                                 const Parameters<A>& parameters) {
    math::sigmoid_affine(x, factor, T(parameters.bias));
  }

  /// With e = exp(s + b) the weight is e - e^2 + e^3 - ..., up to e = 1/16 with a relative error
  /// below e^3 = 2.5e-4, half of what rounding to f16 does. One exponential and no division.
  template <class T, class A>
  QF_HOST_DEVICE static T small_weight_of_product(T x, T factor, const Row<A>&,
                                                  const Parameters<A>& parameters) {
    const T e = math::exp_affine(x, factor, T(parameters.bias));
    return e * (e * e - e) + e;
  }
  template <class A>
  QF_HOST_DEVICE static A small_up_to(const Parameters<A>& parameters) {
    return A(-2.772588722239781) - parameters.bias;
  }

  template <class T, class A>
  QF_HOST_DEVICE static T dscore(const Element<T>& element, T, const Row<A>&,
                                 const Parameters<A>&) {
    return element.weight * (1 - element.weight) * element.dweight;
  }

  template <class T, class A>
  QF_HOST_DEVICE static T element_gradient(int, const Element<T>&, T dscore, const Row<A>&,
                                           const Parameters<A>&) {
    return dscore;
  }
};

}  // namespace quietformer
