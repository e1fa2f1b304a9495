// Central differences in f64 for every score and normaliser of the build, over a covering set of
// combinations of all options. A new normaliser is tested without a change here.
#include <gtest/gtest.h>

#include <string>

#include "tests/attention/option_grid.h"
#include "tests/support/finite_difference.h"

namespace quietformer {
namespace {

using test::AttentionCase;
using test::CaseOptions;
using test::DifferenceOptions;
using test::expect_gradient;

/// Where weights are clipped the loss has kinks: the step is so small that next to no element
/// crosses one.
DifferenceOptions differences(const NormalizerInfo& info) {
  DifferenceOptions options;
  if (info.clips) options.step = 1e-6, options.tolerance = 1e-5;
  return options;
}

void check_head_parameters(AttentionCase& run) {
  const auto loss = [&] { return run.loss(); };
  const NormalizerInfo& info = find_normalizer(run.problem.normalizer);
  for (std::size_t k = 0; k < info.parameters.size(); ++k) {
    Tensor& value = run.problem.head_parameters[k];
    const bool absent = value.shape.rank == 0;
    if (absent) {  // the gradient is that at the default
      value = run.make(DType::f64, {run.problem.heads()});
      test::fill(value, info.parameters[k].default_value);
    }
    const Tensor gradient = run.problem.d_head_parameters[k];
    const std::string name(info.parameters[k].name);
    // At zeta = 1 a row's only key stands on the upper bound: a kink.
    if (info.clips && absent && info.parameters[k].default_value == info.parameters[k].minimum)
      continue;
    if (std::isfinite(test::get(value, 0))) {
      DifferenceOptions options = differences(info);
      options.minimum = info.parameters[k].minimum;
      expect_gradient("d" + name, value, gradient, loss, options);
    } else {
      EXPECT_EQ(test::max_abs(gradient), 0) << "d" << name << " at an infinite default";
    }
  }
}

void check_all(const CaseOptions& options, std::int64_t elements = 1 << 20) {
  SCOPED_TRACE(test::describe(options));
  AttentionCase run(options);
  AttentionProblem& p = run.problem;
  const auto loss = [&] { return run.loss(); };
  run.forward();
  run.backward();
  EXPECT_TRUE(run.guards_intact());
  const DifferenceOptions all = differences(find_normalizer(options.normalizer));
  DifferenceOptions limit = all;
  limit.elements = elements;
  expect_gradient("dq", p.q, p.dq, loss, limit);
  expect_gradient("dk", p.k, p.dk, loss, limit);
  expect_gradient("dv", p.v, p.dv, loss, limit);
  if (options.score == Score::piecewise) {
    expect_gradient("dq2", p.q2, p.dq2, loss, limit);
    expect_gradient("dk2", p.k2, p.dk2, loss, limit);
  }
  if (p.bias) expect_gradient("dbias", p.bias, p.dbias, loss, limit);
  check_head_parameters(run);
  const OwnedTensor scale = test::from_values(DType::f64, {1}, {p.scale});
  const auto loss_of_scale = [&] {
    p.scale = test::get(scale, 0);
    return run.loss();
  };
  expect_gradient("dscale", scale, p.dscale, loss_of_scale, all);
}

class AttentionGradient : public testing::TestWithParam<test::Pair> {};

TEST_P(AttentionGradient, MatchesCentralDifferencesOverAllOptions) {
  const auto& [score, normalizer] = GetParam();
  int cases = 0;
  for (const std::uint32_t seed : {11, 12, 13})
    test::for_each_combination(score, normalizer, seed, [&](const CaseOptions& options) {
      if (HasFatalFailure()) return;
      ++cases;
      check_all(options);
    });
  EXPECT_GT(cases, 120);
}

// Several row blocks of the reference, and blocks that a causal window lets skip keys.
TEST_P(AttentionGradient, MatchesCentralDifferencesAcrossRowBlocks) {
  CaseOptions options;
  options.score = std::get<0>(GetParam());
  options.normalizer = std::get<1>(GetParam());
  options.B = 1, options.H = 2, options.Hk = 1, options.L = 131, options.S = 140, options.D = 4;
  options.threshold = options.score == Score::piecewise ? 20 : 0;
  options.bias = {1, 1, 131, 140};
  for (const HeadParameterInfo& info : find_normalizer(options.normalizer).parameters)
    options.parameters.push_back(info.example);
  check_all(options, 12);
  options.causal = true, options.window = {30, -1};
  check_all(options, 12);
}

INSTANTIATE_TEST_SUITE_P(AllPairs, AttentionGradient, testing::ValuesIn(test::all_pairs()),
                         test::pair_name);

}  // namespace
}  // namespace quietformer
