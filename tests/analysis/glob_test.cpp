#include "analysis/glob.h"

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <string>

#include "core/random.h"

namespace quietformer {
namespace {

TEST(Glob, StarStaysWithinAComponent) {
  EXPECT_TRUE(glob_matches("embedding", "embedding"));
  EXPECT_FALSE(glob_matches("embedding", "embeddings"));
  EXPECT_TRUE(glob_matches("blocks.*.output", "blocks.11.output"));
  EXPECT_FALSE(glob_matches("blocks.*.output", "blocks.3.mlp.output"));
  EXPECT_TRUE(glob_matches("blocks.*.*.output", "blocks.3.mlp.output"));
  EXPECT_TRUE(glob_matches("blocks.1*.mlp.*", "blocks.10.mlp.output"));
  EXPECT_FALSE(glob_matches("blocks.1*.mlp.*", "blocks.2.mlp.output"));
  EXPECT_TRUE(glob_matches("*", "embedding"));
  EXPECT_FALSE(glob_matches("*", "a.b"));
  EXPECT_FALSE(glob_matches("", "a"));
}

TEST(Glob, DoubleStarCrossesDots) {
  EXPECT_TRUE(glob_matches("**", "blocks.3.mlp.output"));
  EXPECT_TRUE(glob_matches("**.output", "blocks.3.mlp.output"));
  EXPECT_TRUE(glob_matches("blocks.**.output", "blocks.3.mlp.output"));
  EXPECT_FALSE(glob_matches("**.output", "blocks.3.mlp.hidden"));
  EXPECT_TRUE(glob_matches("**.attention.*", "a.b.attention.context"));
  EXPECT_FALSE(glob_matches("**.attention.*", "a.b.attention.c.d"));
}

// The definition, exponential: what the single loop must agree with.
bool matches_slowly(std::string_view p, std::string_view n) {
  if (p.empty()) return n.empty();
  if (p[0] == '*') {
    const bool deep = p.starts_with("**");
    const std::string_view rest = p.substr(deep ? 2 : 1);
    for (std::size_t i = 0; i <= n.size(); ++i) {
      if (matches_slowly(rest, n.substr(i))) return true;
      if (i < n.size() && n[i] == '.' && !deep) return false;
    }
    return false;
  }
  return !n.empty() && p[0] == n[0] && matches_slowly(p.substr(1), n.substr(1));
}

TEST(Glob, AgreesWithTheDefinitionOnRandomStrings) {
  const RandomKey key = stream_key(1, RandomPurpose::initialisation, 0, 0);
  int matched = 0;
  for (std::uint32_t i = 0; i < 200000; ++i) {
    std::string pattern, name;
    for (std::uint32_t c = 0; c < 8; ++c) {
      const Philox4 bits = philox(key, i, c, 0, 0);
      if (bits.word[2] % 9) pattern += "ab.**"[bits.word[0] % 5];
      if (bits.word[3] % 9) name += "aab."[bits.word[1] % 4];
    }
    const bool want = matches_slowly(pattern, name);
    matched += want;
    ASSERT_EQ(glob_matches(pattern, name), want) << pattern << " on " << name;
  }
  EXPECT_GT(matched, 2000);
}

TEST(Glob, ManyStarsTakeNoTime) {
  std::string pattern, name(200, 'a');
  for (int i = 0; i < 60; ++i) pattern += i % 2 ? "**a" : "*a";
  const auto start = std::chrono::steady_clock::now();
  EXPECT_FALSE(glob_matches(pattern + "b", name));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(1));
}

}  // namespace
}  // namespace quietformer
