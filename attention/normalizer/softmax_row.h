// The row state that normalisers with softmax's denominator share: maximum and sum of exp of the
// visible scores. Part of a policy (normalizer.h), not one.
//
// exp is never taken of a negated maximum by itself, so no sign or size of score overflows.
#pragma once

#include "attention/normalizer/normalizer.h"
#include "core/math.h"

namespace quietformer {

struct SoftmaxRow {
  template <class A>
  struct Partial {
    A max = -math::kInfinity<A>;
    A sum = 0;  // of exp(s - max)
  };

  template <class A>
  QF_HOST_DEVICE static Partial<A> prepared(A max) {
    return {max, 0};
  }

  template <class A>
  QF_HOST_DEVICE static A raise(Partial<A>& partial, A max) {
    if (!(max > partial.max)) return 1;
    // An empty row has max -inf: exp(-inf - max) is the 0 it should be.
    const A factor = math::exp(partial.max - max);
    partial.max = max;
    partial.sum *= factor;
    return factor;
  }

  template <class T, class A>
  QF_HOST_DEVICE static T term(T score, const Partial<A>& partial) {
    return math::exp(score - T(finite_or_zero(partial.max)));
  }

  template <class T, class A>
  QF_HOST_DEVICE static T term_of_product(T x, T factor, const Partial<A>& partial) {
    return math::exp_affine(x, factor, -T(finite_or_zero(partial.max)));
  }

  template <class A>
  QF_HOST_DEVICE static A reference(const Partial<A>& partial) {
    return partial.max;
  }

  template <class A>
  QF_HOST_DEVICE static A score_of(A term, const Partial<A>& partial) {
    return finite_or_zero(partial.max) + math::log(term);
  }

  template <class A>
  QF_HOST_DEVICE static void add(Partial<A>& partial, A sum) {
    partial.sum += sum;
  }

  template <class A>
  QF_HOST_DEVICE static A term_sum(const Partial<A>& partial) {
    return partial.sum;
  }

  template <class A>
  QF_HOST_DEVICE static Partial<A> merge(Partial<A> a, Partial<A> b) {
    raise(a, b.max);
    raise(b, a.max);
    a.sum += b.sum;
    return a;
  }

  template <class A>
  struct Row {
    A lse;  // ln of the whole denominator
  };

  template <class A>
  QF_HOST_DEVICE static A lse_scores(const Partial<A>& partial) {
    return partial.max + math::log(partial.sum);  // -inf - inf for an empty row
  }

  template <class A>
  QF_HOST_DEVICE static A saved(const Row<A>& row) {
    return row.lse;
  }
  template <class A>
  QF_HOST_DEVICE static Row<A> restore(A saved) {
    return {saved};
  }

  /// exp(s - L): the part of the denominator that a score makes up.
  template <class T, class A>
  QF_HOST_DEVICE static T part(T score, const Row<A>& row) {
    return math::exp(score - T(denominator_or_infinity(row)));
  }

  template <class T, class A>
  QF_HOST_DEVICE static T part_of_product(T x, T factor, const Row<A>& row) {
    return math::exp_affine(x, factor, -T(denominator_or_infinity(row)));
  }

 private:
  template <class A>
  QF_HOST_DEVICE static A finite_or_zero(A max) {
    return max > -math::kInfinity<A> ? max : A(0);
  }

  /// A row without denominator saw only -inf; subtracting +inf keeps its weights at 0, not NaN.
  template <class A>
  QF_HOST_DEVICE static A denominator_or_infinity(const Row<A>& row) {
    return row.lse > -math::kInfinity<A> ? row.lse : math::kInfinity<A>;
  }
};

}  // namespace quietformer
