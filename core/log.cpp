#include "core/log.h"

#include <spdlog/logger.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <memory>
#include <mutex>
#include <utility>

namespace quietformer {
namespace {

// One per process, like standard error itself.
struct Log {
  std::mutex mutex;
  ScopedLogSink::Sink sink;
  spdlog::logger standard_error{"quietformer", std::make_shared<spdlog::sinks::stderr_sink_mt>()};
  Log() { standard_error.set_pattern("%v"); }
};

Log& instance() {
  static Log log;
  return log;
}

void emit(LogLevel level, std::string_view line) {
  Log& log = instance();
  const std::string text = one_line(line, 4000);
  const std::lock_guard lock(log.mutex);
  if (log.sink) {
    log.sink(level, text);
  } else if (level == LogLevel::warning) {
    log.standard_error.warn("warning: {}", text);
  } else {
    log.standard_error.info("{}", text);
  }
}

}  // namespace

void log_info(std::string_view line) {
  emit(LogLevel::info, line);
}

void log_warning(std::string_view line) {
  emit(LogLevel::warning, line);
}

std::string one_line(std::string_view text, std::size_t max_bytes) {
  std::string line(text.substr(0, max_bytes));
  for (char& c : line)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
  if (text.size() > max_bytes) line += "...";
  return line;
}

ScopedLogSink::ScopedLogSink(Sink sink) : previous_(std::move(sink)) {
  const std::lock_guard lock(instance().mutex);
  std::swap(instance().sink, previous_);
}

ScopedLogSink::~ScopedLogSink() {
  const std::lock_guard lock(instance().mutex);
  std::swap(instance().sink, previous_);
}

}  // namespace quietformer
