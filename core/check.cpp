#include "core/check.h"

#include <fmt/format.h>

namespace quietformer {

void contract_violation(const char* expression, const char* file, int line) {
  throw std::logic_error(fmt::format("{}:{}: internal error: expected {}", file, line, expression));
}

}  // namespace quietformer
