#include "train/progress.h"

#include <fmt/format.h>

#include <cmath>
#include <cstdio>

namespace quietformer {

std::string format_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "-";
  const auto whole = static_cast<std::int64_t>(seconds + 0.5);
  if (whole >= 3600)
    return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
  return fmt::format("{}:{:02}", whole / 60, whole % 60);
}

Progress::~Progress() {
  if (!shown_.empty()) std::fputs("\n", stdout);
  std::fflush(stdout);
}

void Progress::update(const Line& line, bool logged) {
  if (!terminal_ && !logged) return;
  const std::string bits =
      line.bits_per_byte > 0 ? fmt::format(" ({:.3f} bits/byte)", line.bits_per_byte) : "";
  const std::string text =
      fmt::format("step {:>{}}/{}  loss {:.4f}{}  lr {:.2e}  {:.0f} tokens/s  {} left", line.step,
                  fmt::formatted_size("{}", steps_), steps_, line.loss, bits, line.learning_rate,
                  line.tokens_per_second, format_duration(line.seconds_left));
  if (terminal_) {
    fmt::print("\r\x1b[K{}", text);
    shown_ = text;
  } else {
    fmt::print("{}\n", text);
  }
  std::fflush(stdout);
}

void Progress::say(const std::string& text) {
  if (shown_.empty())
    fmt::print("{}\n", text);
  else
    fmt::print("\r\x1b[K{}\n{}", text, shown_);
  std::fflush(stdout);
}

}  // namespace quietformer
