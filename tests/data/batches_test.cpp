// Split, training batches, evaluation windows.
#include <algorithm>
#include <cmath>
#include <map>
#include <vector>

#include "core/buffer.h"
#include "data/masking.h"
#include "data/sampler.h"
#include "data/split.h"
#include "data/windows.h"
#include "tests/data/files.h"

namespace quietformer {
namespace {

OwnedTensor batch_tensor(std::int64_t rows, std::int64_t context) {
  return OwnedTensor(DType::i32, {rows, context});
}

TEST(Split, TakesLengthsInOrder) {
  const Counting source(100);
  const Split split = make_split({50, 30, 20}, 8, source);
  EXPECT_EQ(split.train.begin, 0);
  EXPECT_EQ(split.train.size, 50);
  EXPECT_EQ(split.validation.begin, 50);
  EXPECT_EQ(split.validation.size, 30);
  EXPECT_EQ(split.test.begin, 80);
  EXPECT_EQ(split.test.size, 20);
  EXPECT_EQ(make_split({9, 9, 9}, 8, source).test.begin, 18);
  EXPECT_EQ(split_total({50, 30, 20}, 8), 100);
}

TEST(Split, BadInput) {
  const Counting source(100);
  EXPECT_EQ(input_error([&] {
              make_split({50, 30, 21}, 8, source);
            }),
            "data.split: sums to 101 but counting holds 100 tokens");
  EXPECT_EQ(input_error([] {
              split_total({50, -1, 20}, 8);
            }),
            "data.split: validation length -1 is negative");
  EXPECT_EQ(input_error([] {
              split_total({50, 30, 8}, 8);
            }),
            "data.split: test length 8 is too short, expected at least context + 1 = 9");
  EXPECT_EQ(input_error([] {
              split_total({0, 30, 20}, 8, "--split");
            }),
            "--split: training length 0 is too short, expected at least context + 1 = 9");
  EXPECT_EQ(input_error([] {
              split_total({INT64_MAX, INT64_MAX, 20}, 8);
            }),
            "data.split: the sum overflows 64 bits");
}

TEST(Sampler, TargetsAreInputsShifted) {
  const Counting source(1000);
  for (std::int64_t context : {1, 7, 64}) {
    const Sampler sampler(source, {100, 200}, context);
    const OwnedTensor inputs = batch_tensor(32, context), targets = batch_tensor(32, context);
    sampler.fill({1, 0, 0}, inputs, targets);
    for (std::int64_t row = 0; row < 32; ++row) {
      const std::int32_t* in = inputs.as<std::int32_t>() + row * context;
      const std::int32_t* target = targets.as<std::int32_t>() + row * context;
      EXPECT_GE(in[0], 100);
      EXPECT_LT(target[context - 1], 300);
      EXPECT_EQ(in[0], sampler.position({1, 0, 0}, static_cast<std::uint32_t>(row)));
      for (std::int64_t t = 0; t < context; ++t) {
        EXPECT_EQ(in[t], in[0] + t);
        EXPECT_EQ(target[t], in[t] + 1);
      }
    }
  }
}

TEST(Sampler, SlicesOfAStepAgree) {
  const Counting source(100000);
  const Sampler sampler(source, {0, source.size()}, 16);
  const OwnedTensor whole = batch_tensor(12, 16), whole_targets = batch_tensor(12, 16);
  const OwnedTensor part = batch_tensor(4, 16), part_targets = batch_tensor(4, 16);
  for (std::uint64_t step : {0ull, 1ull, 5'000'000'000ull}) {
    sampler.fill({7, step, 0}, whole, whole_targets);
    for (std::uint32_t first : {0u, 4u, 8u}) {
      sampler.fill({7, step, first}, part, part_targets);
      const auto* begin = whole.as<std::int32_t>() + first * 16;
      EXPECT_TRUE(std::equal(begin, begin + 64, part.as<std::int32_t>()));
    }
  }
}

TEST(Sampler, DependsOnSeedStepAndSample) {
  const Counting source(1 << 30);
  const Sampler sampler(source, {0, source.size()}, 16);
  std::vector<std::int64_t> positions;
  for (std::uint64_t seed : {1, 2})
    for (std::uint64_t step : {0, 1, 2})
      for (std::uint32_t sample : {0u, 1u, 65536u})
        positions.push_back(sampler.position({seed, step, 0}, sample));
  std::sort(positions.begin(), positions.end());
  EXPECT_EQ(std::adjacent_find(positions.begin(), positions.end()), positions.end());
  // The stream is part of the resume contract: these starts must never change.
  EXPECT_EQ(sampler.position({1, 0, 0}, 0), 142498166);
  EXPECT_EQ(sampler.position({1, 1000, 0}, 63), 159602335);
}

TEST(Sampler, IsUniformAndReachesBothEnds) {
  const Counting source(1000);
  const Sampler sampler(source, {500, 40}, 30);  // ten starts
  std::map<std::int64_t, int> counts;
  const int draws = 100000;
  for (std::uint32_t k = 0; k < draws; ++k) ++counts[sampler.position({3, 9, 0}, k)];
  ASSERT_EQ(counts.size(), 10u);
  EXPECT_EQ(counts.begin()->first, 500);
  EXPECT_EQ(counts.rbegin()->first, 509);
  double chi = 0;
  for (const auto& [start, count] : counts)
    chi += std::pow(count - draws / 10.0, 2) / (draws / 10.0);
  EXPECT_LT(chi, 27.9);  // 99.9 % of chi squared with 9 degrees of freedom
  const Sampler only(source, {0, 31}, 30);
  EXPECT_EQ(only.position({3, 9, 0}, 5), 0);
  EXPECT_THROW(Sampler(source, {0, 30}, 30), std::logic_error);
}

// Every token but the first is a target once, its input is the token before, the rest is padding.
void expect_coverage(std::int64_t size, std::int64_t context, std::int64_t batch,
                     std::int64_t ranks) {
  SCOPED_TRACE(testing::Message() << size << " tokens, context " << context << ", batch " << batch);
  const Counting source(size + 50);
  const Windows windows(source, {20, size}, context, batch);
  const std::int64_t rows = batch / ranks;
  const OwnedTensor inputs = batch_tensor(rows, context), targets = batch_tensor(rows, context);
  std::vector<int> seen(static_cast<std::size_t>(size));
  std::int64_t live = 0;
  for (std::int64_t b = 0; b < windows.batches(); ++b)
    for (std::int64_t rank = 0; rank < ranks; ++rank) {
      const std::int64_t returned = windows.fill(b, inputs, targets, rank * rows);
      std::int64_t counted = 0;
      for (std::int64_t i = 0; i < rows * context; ++i) {
        const std::int32_t in = inputs.as<std::int32_t>()[i],
                           target = targets.as<std::int32_t>()[i];
        if (target == kIgnoredTarget) {
          EXPECT_EQ(in, 0);
          continue;
        }
        EXPECT_EQ(target, in + 1);
        ASSERT_TRUE(target > 20 && target < 20 + size);
        ++seen[static_cast<std::size_t>(target - 20)];
        ++counted;
      }
      EXPECT_EQ(counted, returned);
      live += returned;
    }
  EXPECT_EQ(seen[0], 0);
  EXPECT_TRUE(std::all_of(seen.begin() + 1, seen.end(), [](int n) { return n == 1; }));
  EXPECT_EQ(live, size - 1);
  EXPECT_EQ(windows.targets(), size - 1);
}

TEST(Windows, CoverTheSpanExactly) {
  for (std::int64_t size : {2, 3, 8, 9, 10, 16, 17, 18, 100, 1001})
    for (std::int64_t context : {1, 2, 8, 200})
      for (std::int64_t batch : {2, 6}) {
        expect_coverage(size, context, batch, 1);
        expect_coverage(size, context, batch, 2);
      }
}

TEST(Windows, LimitSpreadsOverTheSpan) {
  const Counting source(10001);
  const std::int64_t context = 10, batch = 4;  // 1000 windows, 250 batches
  const Windows windows(source, {0, 10001}, context, batch, 5);
  EXPECT_EQ(windows.batches(), 5);
  EXPECT_EQ(windows.windows(), 20);
  EXPECT_EQ(windows.targets(), 200);
  const OwnedTensor inputs = batch_tensor(batch, context), targets = batch_tensor(batch, context);
  std::vector<std::int64_t> starts;
  for (std::int64_t b = 0; b < 5; ++b) {
    EXPECT_EQ(windows.fill(b, inputs, targets), 40);
    for (std::int64_t row = 0; row < batch; ++row)
      starts.push_back(inputs.as<std::int32_t>()[row * context]);
  }
  for (std::size_t i = 0; i < starts.size(); ++i) EXPECT_EQ(starts[i], 500 * std::int64_t(i));
  EXPECT_THROW(windows.fill(5, inputs, targets), std::logic_error);
}

TEST(Windows, LimitBeyondTheSpanTakesEverything) {
  const Counting source(102);
  for (std::int64_t limit : {3, 4, 1000}) {
    const Windows windows(source, {0, 102}, 10, 4, limit);
    EXPECT_EQ(windows.batches(), 3);
    EXPECT_EQ(windows.targets(), 101);
  }
  const Windows some(source, {0, 102}, 10, 4, 2);
  EXPECT_EQ(some.windows(), 8);
  EXPECT_EQ(some.targets(), 80);
}

constexpr std::int32_t kMask = 256;

Masking masking(double probability) {
  return Masking({probability, kMask, 200});
}

/// Tokens 200 ... 255, so that a random id shows.
OwnedTensor plain_tokens(std::int64_t rows, std::int64_t context) {
  OwnedTensor tokens = batch_tensor(rows, context);
  for (std::int64_t i = 0; i < rows * context; ++i)
    tokens.as<std::int32_t>()[i] = static_cast<std::int32_t>(200 + i % 56);
  return tokens;
}

// Binomial shares, each within 5 standard deviations.
TEST(Masking, FifteenPercentOfWhichEightyAreTheMaskTenRandomAndTenKept) {
  const std::int64_t rows = 64, context = 512, count = rows * context;
  const OwnedTensor text = plain_tokens(rows, context), tokens = plain_tokens(rows, context),
                    targets = batch_tensor(rows, context);
  const std::int64_t chosen = masking(0.15).training({1, 7, 0}, tokens, targets);
  std::int64_t found = 0, masked = 0, random = 0, kept = 0;
  std::map<std::int32_t, int> ids;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int32_t before = text.as<std::int32_t>()[i], after = tokens.as<std::int32_t>()[i];
    if (targets.as<std::int32_t>()[i] == kIgnoredTarget) {
      EXPECT_EQ(after, before);
      continue;
    }
    EXPECT_EQ(targets.as<std::int32_t>()[i], before);
    ++found;
    masked += after == kMask;
    kept += after == before;
    if (after < 200) ++random, ++ids[after];
  }
  EXPECT_EQ(found, chosen);
  EXPECT_EQ(masked + random + kept, chosen);
  const auto near = [](std::int64_t part, std::int64_t whole, double share) {
    EXPECT_NEAR(double(part), share * double(whole),
                5 * std::sqrt(double(whole) * share * (1 - share)));
  };
  near(chosen, count, 0.15);
  near(masked, chosen, 0.8);
  near(random, chosen, 0.1);
  EXPECT_GT(ids.size(), 150u);
  EXPECT_EQ(masking(1).training({1, 7, 0}, tokens, targets), count);
}

TEST(Masking, DependsOnSeedStepAndSampleAlone) {
  const std::int64_t context = 64;
  const auto drawn = [&](RandomState random, std::int64_t rows) {
    const OwnedTensor tokens = plain_tokens(rows, context), targets = batch_tensor(rows, context);
    masking(0.15).training(random, tokens, targets);
    const auto* begin = targets.as<std::int32_t>();
    return std::vector<std::int32_t>(begin, begin + rows * context);
  };
  const auto whole = drawn({3, 9, 0}, 6), part = drawn({3, 9, 2}, 2);
  for (std::int64_t i = 0; i < 2 * context; ++i)
    EXPECT_EQ(part[std::size_t(i)] == kIgnoredTarget,
              whole[std::size_t(i + 2 * context)] == kIgnoredTarget);
  EXPECT_NE(drawn({4, 9, 0}, 6), whole);
  EXPECT_NE(drawn({3, 8, 0}, 6), whole);
}

TEST(Windows, MaskEveryPlaceOnceAndAlike) {
  const std::int64_t size = 1001, context = 16;
  const Counting source(size + 50);
  std::map<std::int32_t, std::int32_t> read;  // by token, which is its place
  std::int64_t total = 0;
  for (const std::int64_t batch : {1, 4}) {  // 63 windows: the last one is short
    const Windows windows(source, {20, size}, context, batch);
    const OwnedTensor tokens = batch_tensor(batch, context), targets = batch_tensor(batch, context),
                      inputs = batch_tensor(batch, context), next = batch_tensor(batch, context);
    const OwnedTensor valid(DType::u8, {batch, context});
    std::int64_t real = 0, chosen = 0;
    for (std::int64_t b = 0; b < windows.batches(); ++b) {
      const std::int64_t count = windows.fill(b, inputs, next);
      EXPECT_EQ(windows.padded(b), count < batch * context);
      chosen += windows.fill_masked(b, Masking({0.15, 5000, 4000}), 9999, tokens, targets, valid);
      for (std::int64_t i = 0; i < batch * context; ++i) {
        const std::int32_t token = tokens.as<std::int32_t>()[i],
                           target = targets.as<std::int32_t>()[i],
                           text = inputs.as<std::int32_t>()[i];
        const bool is_real = valid.as<std::uint8_t>()[i] != 0;
        EXPECT_EQ(is_real, next.as<std::int32_t>()[i] != kIgnoredTarget);
        real += is_real;
        if (!is_real) {
          EXPECT_EQ(token, 9999);
          EXPECT_EQ(target, kIgnoredTarget);
          continue;
        }
        EXPECT_TRUE(target == text || (target == kIgnoredTarget && token == text));
        const auto [at, first] = read.emplace(text, token);
        EXPECT_EQ(first, batch == 1);
        EXPECT_EQ(at->second, token);
      }
    }
    EXPECT_EQ(real, size - 1);
    if (batch == 1) total = chosen;
    EXPECT_EQ(chosen, total);
  }
  // Of a later part of the span, too.
  const Windows few(source, {20 + 320, 161}, context, 2, 1);
  const OwnedTensor tokens = batch_tensor(2, context), targets = batch_tensor(2, context);
  const OwnedTensor valid(DType::u8, {2, context});
  few.fill_masked(0, Masking({0.15, 5000, 4000}), 9999, tokens, targets, valid);
  for (std::int64_t i = 0; i < context; ++i)
    EXPECT_EQ(tokens.as<std::int32_t>()[i], read.at(static_cast<std::int32_t>(340 + i)));
}

}  // namespace
}  // namespace quietformer
