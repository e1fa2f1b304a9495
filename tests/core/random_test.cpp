#include "core/random.h"

#include <gtest/gtest.h>

#include <cmath>

namespace quietformer {
namespace {

TEST(Philox, KnownAnswers) {
  // Random123's kat_vectors for philox4x32-10.
  const Philox4 zero = philox({{0, 0}}, 0, 0, 0, 0);
  EXPECT_EQ(zero.word[0], 0x6627e8d5u);
  EXPECT_EQ(zero.word[1], 0xe169c58du);
  EXPECT_EQ(zero.word[2], 0xbc57ac4cu);
  EXPECT_EQ(zero.word[3], 0x9b00dbd8u);
  const std::uint32_t f = 0xffffffffu;
  const Philox4 ones = philox({{f, f}}, f, f, f, f);
  EXPECT_EQ(ones.word[0], 0x408f276du);
  EXPECT_EQ(ones.word[1], 0x41c83b0eu);
  EXPECT_EQ(ones.word[2], 0xa20bc7c6u);
  EXPECT_EQ(ones.word[3], 0x6d5451fdu);
}

TEST(Dropout, RateMatchesAndStreamsDiffer) {
  for (double p : {0.1, 0.5, 0.8}) {
    const RandomKey key = stream_key(3, RandomPurpose::attention_dropout, 1, 17);
    const RandomKey other = stream_key(3, RandomPurpose::attention_dropout, 2, 17);
    std::int64_t dropped = 0, agree = 0;
    const std::int64_t rows = 500, cols = 1000;
    for (std::uint32_t i = 0; i < rows; ++i)
      for (std::uint32_t j = 0; j < cols; ++j) {
        const bool keep = dropout_keep(key, dropout_threshold(p), 0, 0, i, j);
        dropped += !keep;
        agree += keep == dropout_keep(other, dropout_threshold(p), 0, 0, i, j);
      }
    const double n = double(rows * cols);
    EXPECT_NEAR(dropped / n, p, 0.01 * p);
    EXPECT_NEAR(agree / n, p * p + (1 - p) * (1 - p), 0.01);
  }
  EXPECT_EQ(dropout_threshold(0), 0u);
}

}  // namespace
}  // namespace quietformer
