#include "core/log.h"

#include <gtest/gtest.h>

#include <vector>

namespace quietformer {
namespace {

TEST(Log, WritesOneLineEachToStandardError) {
  testing::internal::CaptureStderr();
  log_info("three {} %s steps");
  log_warning("two\nlines");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "three {} %s steps\nwarning: two?lines\n");
}

TEST(Log, ScopedSinksNest) {
  std::vector<std::string> outer, inner;
  const ScopedLogSink first([&](LogLevel, const std::string& line) { outer.push_back(line); });
  {
    const ScopedLogSink second([&](LogLevel level, const std::string& line) {
      inner.push_back((level == LogLevel::warning ? "w " : "i ") + line);
    });
    log_warning("a");
    log_info("b");
  }
  log_info("c");
  EXPECT_EQ(inner, (std::vector<std::string>{"w a", "i b"}));
  EXPECT_EQ(outer, (std::vector<std::string>{"c"}));
}

TEST(OneLine, TakesOutControlCharactersAndCuts) {
  EXPECT_EQ(one_line("a\tb\x1b[31m\x7f\xc3\xbc"), "a?b?[31m?\xc3\xbc");
  EXPECT_EQ(one_line("abcdef", 3), "abc...");
  EXPECT_EQ(one_line("abc", 3), "abc");
}

}  // namespace
}  // namespace quietformer
