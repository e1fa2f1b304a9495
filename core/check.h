// Errors. Libraries throw; only main() catches, prints one line and maps the type to an exit
// status.
//
// A message names the file, key or tensor, what was found and what was expected, in one line
// without a final period: "model.heads: 3 does not divide model.dim 128". Build messages with
// fmt::format in .cpp files; public headers include no third party.
#pragma once

#include <stdexcept>
#include <string>

namespace quietformer {

/// Base of every error thrown on purpose. Anything else that reaches main() is a bug.
class Error : public std::runtime_error {
 public:
  /// Control characters in the message, which come out of files, become '?'.
  Error(const std::string& message, int exit_status);
  int exit_status() const { return exit_status_; }

 private:
  int exit_status_;
};

/// The user gave something wrong: bad option, config, file contents, shapes. Exit status 2.
class InputError : public Error {
 public:
  explicit InputError(const std::string& message) : Error(message, 2) {}
};

/// The input was fine but the run failed: disk full, out of memory, a device went away. Exit
/// status 1.
class RunError : public Error {
 public:
  explicit RunError(const std::string& message) : Error(message, 1) {}
};

/// Throws std::logic_error with file and line. For contracts between our own functions (a caller's
/// bug), never for user input.
[[noreturn]] void contract_violation(const char* expression, const char* file, int line);

}  // namespace quietformer

#define QF_EXPECTS(condition)   \
  (static_cast<bool>(condition) \
       ? void(0)                \
       : ::quietformer::contract_violation(#condition, __FILE__, __LINE__))
