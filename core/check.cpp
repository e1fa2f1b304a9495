#include "core/check.h"

#include <fmt/format.h>

#include "core/log.h"

namespace quietformer {

Error::Error(const std::string& message, int exit_status)
    : std::runtime_error(one_line(message, message.size())), exit_status_(exit_status) {}

void contract_violation(const char* expression, const char* file, int line) {
  throw std::logic_error(fmt::format("{}:{}: internal error: expected {}", file, line, expression));
}

}  // namespace quietformer
