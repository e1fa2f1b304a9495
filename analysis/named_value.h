#pragma once

#include <string>

namespace quietformer {

struct NamedValue {
  std::string name;
  double value = 0;
};

}  // namespace quietformer
