// A number with a path for a name, "activations/blocks.*.mlp.output/max_kurtosis": rows of
// comparisons, and what a checkpoint keeps of statistics.
#pragma once

#include <string>

namespace quietformer {

struct NamedValue {
  std::string name;
  double value = 0;
};

}  // namespace quietformer
