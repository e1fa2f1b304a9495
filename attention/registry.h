// What the build knows about its scores: policy constants as run-time values.
#pragma once

#include "attention/attention.h"
#include "attention/score/score.h"

namespace quietformer {

struct ScoreInfo {
  std::string_view name;
  Operands operands;
  int pairs;
  double (*default_scale)(std::int64_t head_dim);
};

const ScoreInfo& info_of(Score score);

}  // namespace quietformer
