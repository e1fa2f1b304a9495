// Forward, every option and every output, against the definitions written once more.
#include <gtest/gtest.h>

#include <string>
#include <tuple>
#include <vector>

#include "tests/attention/naive.h"
#include "tests/attention/option_grid.h"

namespace quietformer {
namespace {

using test::AttentionCase;
using test::CaseOptions;
using test::get;

/// Compares every forward output with the element-by-element definition.
void expect_definition(const AttentionCase& c, double tolerance) {
  const AttentionProblem& p = c.problem;
  const test::NaiveAttention naive(p);
  AttentionProblem expected = p;
  std::vector<OwnedTensor> owned;
  const auto make = [&](const Tensor& like) {
    if (like.shape.rank == 0) return Tensor();
    return Tensor(owned.emplace_back(DType::f64, like.shape));
  };
  expected.o = make(p.o), expected.lse = make(p.lse), expected.lse_scores = make(p.lse_scores);
  expected.sink_mass = make(p.sink_mass), expected.row_sum = make(p.row_sum);
  expected.total_attention = make(p.total_attention), expected.weights = make(p.weights);
  const std::int64_t queries = p.q.shape[2], keys = p.k.shape[2];
  for (std::int64_t b = 0; b < p.batch(); ++b)
    for (std::int64_t h = 0; h < p.heads(); ++h) {
      const auto e = naive.extent(b);
      const std::int64_t head = e.batch * p.heads() + h;
      for (std::int64_t i = 0; i < e.queries; ++i) {
        const auto row = naive.row(b, h, i);
        const std::int64_t at = head * queries + e.first_query + i;
        test::Real sum = 0;
        for (std::int64_t j = 0; j < e.keys; ++j) {
          const test::Real weight = row.weights[std::size_t(j)];
          sum += weight;
          const std::int64_t key = head * keys + e.first_key + j;
          test::set(expected.total_attention, key,
                    get(expected.total_attention, key) + double(weight));
          if (p.weights) test::set(expected.weights, at * keys + j, double(weight));
        }
        test::set(expected.row_sum, at, double(sum));
        const auto o = naive.output(b, h, i, row);
        for (std::size_t d = 0; d < o.size(); ++d)
          test::set(expected.o, at * std::int64_t(o.size()) + std::int64_t(d), double(o[d]));
        if (!p.lse) continue;
        test::set(expected.lse, at, double(row.lse));
        test::set(expected.lse_scores, at, double(row.lse_scores));
        test::set(expected.sink_mass, at, double(row.sink_mass));
      }
    }
  for (const auto& [name, actual, want] :
       {std::tuple{"o", p.o, expected.o},
        {"lse", p.lse, expected.lse},
        {"lse_scores", p.lse_scores, expected.lse_scores},
        {"sink_mass", p.sink_mass, expected.sink_mass},
        {"row_sum", p.row_sum, expected.row_sum},
        {"total_attention", p.total_attention, expected.total_attention},
        {"weights", p.weights, expected.weights}})
    if (actual) {
      EXPECT_TRUE(test::close(actual, want, tolerance)) << name;
    }
}

class AttentionDefinition : public testing::TestWithParam<test::Pair> {};

bool oracle_knows(const std::string& normalizer) {
  return normalizer == "softmax_n" || normalizer == "sigmoid";
}

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
