// What a person sees while a run goes on: a line that updates itself on a terminal, plain lines
// elsewhere. All of it goes to standard output; errors and warnings go to standard error.
#pragma once

#include <cstdint>
#include <string>

namespace quietformer {

class Progress {
 public:
  /// `terminal`: standard output is one.
  Progress(std::int64_t steps, bool terminal) : steps_(steps), terminal_(terminal) {}
  ~Progress();

  struct Line {
    std::int64_t step = 0;
    double loss = 0;
    double bits_per_byte = 0;  // 0: tokens, not bytes
    double learning_rate = 0;
    double tokens_per_second = 0;
    double seconds_left = 0;
  };
  /// On a terminal every call redraws the line; elsewhere only calls with `logged` print.
  void update(const Line& line, bool logged);
  /// Prints a line of its own (evaluation, checkpoints), keeping the progress line below it.
  void say(const std::string& text);

 private:
  std::int64_t steps_;
  bool terminal_;
  std::string shown_;
};

/// "1:02:03", "4:05".
std::string format_duration(double seconds);

}  // namespace quietformer
