// Forward, every option and every output, against the definitions written once more.
#include <gtest/gtest.h>

#include <string>
#include <tuple>
#include <vector>

#include "tests/attention/definition.h"
#include "tests/attention/option_grid.h"

namespace quietformer {
namespace {

using test::AttentionCase;
using test::CaseOptions;
using test::expect_definition;
using test::oracle_knows;

class AttentionDefinition : public testing::TestWithParam<test::Pair> {};

TEST_P(AttentionDefinition, ForwardIsTheDefinition) {
  if (!oracle_knows(std::get<1>(GetParam()))) GTEST_SKIP() << "the oracle lacks this normaliser";
  const auto& [score, normalizer] = GetParam();
  test::for_each_combination(score, normalizer, 31, [](const CaseOptions& options) {
    SCOPED_TRACE(test::describe(options));
    AttentionCase c(options);
    c.forward();
    expect_definition(c, 1e-12);
  });
}

// Lengths around the row block of 64, more and fewer keys than queries, one and none.
TEST_P(AttentionDefinition, ForwardIsTheDefinitionForAnyLength) {
  if (!oracle_knows(std::get<1>(GetParam()))) GTEST_SKIP() << "the oracle lacks this normaliser";
  for (const auto& [L, S] : std::vector<std::pair<int, int>>{{1, 1},
                                                             {1, 70},
                                                             {2, 1},
                                                             {63, 64},
                                                             {64, 64},
                                                             {65, 63},
                                                             {129, 130},
                                                             {130, 3},
                                                             {3, 0},
                                                             {0, 3},
                                                             {0, 0}})
    for (const bool causal : {false, true}) {
      CaseOptions options;
      options.score = std::get<0>(GetParam()), options.normalizer = std::get<1>(GetParam());
      for (const HeadParameterInfo& info : find_normalizer(options.normalizer).parameters)
        options.parameters.push_back(info.example);
      options.threshold = options.score == Score::piecewise ? 2 : 0;
      options.B = 1, options.L = L, options.S = S, options.causal = causal;
      if (L + S > 100) options.window = {40, 20};
      SCOPED_TRACE(test::describe(options));
      AttentionCase c(options);
      c.forward(), c.backward();
      EXPECT_TRUE(c.guards_intact());
      expect_definition(c, 1e-12);
    }
}

INSTANTIATE_TEST_SUITE_P(AllPairs, AttentionDefinition, testing::ValuesIn(test::all_pairs()),
                         test::pair_name);

}  // namespace
}  // namespace quietformer
