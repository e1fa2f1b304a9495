// Two pairs chosen by distance: with d = i + S - L - j, scale * q.k where d < threshold and
// scale * q2.k2 where d >= threshold. Future keys have negative distance. Used for position
// encodings that treat far keys differently (NLPE of Aquila-2-34B).
#pragma once

#include <cmath>

#include "attention/score/score.h"
#include "core/dtype.h"

namespace quietformer {

struct Piecewise {
  static constexpr std::string_view name = "piecewise";
  static constexpr Operands operands = Operands::as_given;
  static constexpr int pairs = 2;
  static double default_scale(std::int64_t head_dim) { return 1 / std::sqrt(double(head_dim)); }

  /// Keys [0, far_end) are at distance >= threshold from a query at `position` = i + S - L.
  QF_HOST_DEVICE static std::int64_t far_end(std::int64_t position, std::int64_t threshold,
                                             std::int64_t keys) {
    const std::int64_t end = position - threshold + 1;
    return end < 0 ? 0 : (end > keys ? keys : end);
  }
};

}  // namespace quietformer
