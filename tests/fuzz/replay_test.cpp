// The short run of every fuzz target: its corpus, which holds all former findings, and seeded
// mutations of it. scripts/fuzz does the long ones.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/fuzz/mutate.h"
#include "tests/fuzz/target.h"
#include "tests/support/scratch.h"

namespace quietformer::fuzz {
namespace {

constexpr int kMutants = 6000;

std::vector<std::string> corpus_of(std::string_view target) {
  std::vector<std::string> paths, contents;
  const std::string folder = QUIETFORMER_SOURCE "/tests/fuzz/corpus/" + std::string(target);
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    paths.push_back(entry.path().string());
  std::sort(paths.begin(), paths.end());  // the seeds of mutants must mean the same everywhere
  for (const std::string& path : paths) contents.push_back(test::contents_of(path));
  return contents;
}

class Fuzz : public testing::TestWithParam<Target> {
 protected:
  // Counts outcomes; anything that is not one fails the test, and says for which bytes.
  void run(const std::string& bytes, const std::string& which) {
    try {
      ++count_[static_cast<int>(GetParam().run(bytes))];
    } catch (const std::exception& error) {
      ADD_FAILURE() << GetParam().name << ", " << which << ": " << error.what()
                    << "\ninput: " << testing::PrintToString(bytes.substr(0, 2000));
    }
  }
  int count(Outcome outcome) const { return count_[static_cast<int>(outcome)]; }

 private:
  int count_[2] = {};
};

TEST_P(Fuzz, Corpus) {
  const std::vector<std::string> corpus = corpus_of(GetParam().name);
  for (std::size_t i = 0; i < corpus.size(); ++i) {
    EXPECT_LE(corpus[i].size(), GetParam().max_bytes) << i;
    run(corpus[i], "corpus file " + std::to_string(i));
  }
  EXPECT_GT(count(Outcome::read), 1) << "no file of the corpus is read to its end";
  EXPECT_GT(count(Outcome::refused), 0);
}

TEST_P(Fuzz, Mutants) {
  const std::vector<std::string> corpus = corpus_of(GetParam().name);
  ASSERT_FALSE(corpus.empty());
  for (int round = 0; round < kMutants && !HasFailure(); ++round) {
    Dice dice(static_cast<std::uint32_t>(round));
    run(mutant(corpus, dice).substr(0, GetParam().max_bytes), "round " + std::to_string(round));
  }
  // Both happen often: the mutants neither all fail at the first byte nor all stay harmless.
  EXPECT_GT(count(Outcome::read), kMutants / 100);
  EXPECT_GT(count(Outcome::refused), kMutants / 100);
}

INSTANTIATE_TEST_SUITE_P(Readers, Fuzz, testing::ValuesIn(kTargets),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace quietformer::fuzz
