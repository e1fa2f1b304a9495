// Cosine similarity: scale * l2norm(q).l2norm(k), the norm taken over each of `groups` slices of
// the head dimension, so |score| <= scale * groups.
#pragma once

#include <cmath>

#include "attention/score/score.h"
#include "core/dtype.h"

namespace quietformer {

struct Cosine {
  static constexpr std::string_view name = "cosine";
  static constexpr Operands operands = Operands::unit_groups;
  static constexpr int pairs = 1;
  static double default_scale(std::int64_t) { return 10; }

  /// Norms below this divide as if they were this, so a zero vector stays zero.
  static constexpr double smallest_norm = 1e-12;

  /// 1 / max(|x|, smallest_norm).
  template <class A>
  QF_HOST_DEVICE static A inverse_norm(A sum_of_squares) {
    const A norm = std::sqrt(sum_of_squares);
    return A(1) / (norm > A(smallest_norm) ? norm : A(smallest_norm));
  }

  /// What to subtract, times y, from dy before dividing by the norm: y.dy where the norm follows x,
  /// 0 where smallest_norm took its place. dx = (dy - y * projection) * inverse_norm.
  template <class A>
  QF_HOST_DEVICE static A projection(A y_dot_dy, A sum_of_squares) {
    return std::sqrt(sum_of_squares) > A(smallest_norm) ? y_dot_dy : A(0);
  }
};

}  // namespace quietformer
