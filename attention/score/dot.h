// scale * q.k, as in Vaswani et al., "Attention is all you need", 2017.
#pragma once

#include <cmath>

#include "attention/score/score.h"

namespace quietformer {

struct Dot {
  static constexpr std::string_view name = "dot";
  static constexpr Operands operands = Operands::as_given;
  static constexpr int pairs = 1;
  static double default_scale(std::int64_t head_dim) { return 1 / std::sqrt(double(head_dim)); }
};

}  // namespace quietformer
