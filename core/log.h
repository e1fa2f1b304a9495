// Messages for people: information and warnings, one line each on standard error.
// Results go to standard output and files; errors are thrown (core/check.h) and printed by main().
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace quietformer {

enum class LogLevel : std::uint8_t { info, warning };

/// Prints the line; a warning is prefixed "warning: ". Safe from several threads.
void log_info(std::string_view line);
void log_warning(std::string_view line);

/// `text` on one line: control characters (and with them terminal escapes) become '?', and what
/// goes beyond `max_bytes` becomes "...". For text that comes out of files.
std::string one_line(std::string_view text, std::size_t max_bytes = 400);

/// While it lives, log lines (without prefix) go to `sink` instead of standard error. For tests.
/// Nested ones must die in reverse order.
class ScopedLogSink {
 public:
  using Sink = std::function<void(LogLevel, const std::string& line)>;
  explicit ScopedLogSink(Sink sink);
  ScopedLogSink(const ScopedLogSink&) = delete;
  ScopedLogSink& operator=(const ScopedLogSink&) = delete;
  ~ScopedLogSink();

 private:
  Sink previous_;
};

}  // namespace quietformer
