// Forward and backward on a GPU against the reference on the CPU in f64.
#pragma once

#include <cstdio>
#include <string>
#include <vector>

#include "tests/attention/hidden_keys.h"
#include "tests/attention/option_grid.h"

namespace quietformer::test {

inline void copy_values(const Tensor& to, const Tensor& from) {
  for (std::int64_t i = 0; i < to.count() && to.data != nullptr; ++i) set(to, i, get(from, i));
}

/// Every result of `options.implementation` in `dtype` on the GPU against f64 on the CPU from the
/// same inputs.
inline void compare_with_cpu(CaseOptions options, DType dtype, double tolerance) {
  const std::string name = options.implementation;
  options.implementation = "reference";
  options.dtype = DType::f64;
  AttentionCase exact(options);
  exact.ctx.threads = 8;
  exact.provide_workspace();
  options.dtype = dtype;
  AttentionCase tested(options);
  if (name != "reference") exact.problem.weights = tested.problem.weights = Tensor();
  AttentionProblem &e = exact.problem, &t = tested.problem;
  for (const auto member : {&AttentionProblem::q, &AttentionProblem::k, &AttentionProblem::v,
                            &AttentionProblem::q2, &AttentionProblem::k2, &AttentionProblem::do_,
                            &AttentionProblem::bias, &AttentionProblem::alibi_slopes})
    copy_values(e.*member, t.*member);  // as rounded
  const AttentionImplementation &reference = find_implementation("reference"),
                                &implementation = find_implementation(name);
  GpuCopies gpu;
  reference.forward(exact.ctx, e);
  gpu.run(implementation, tested.ctx, t, Direction::forward);
  if (size_of(dtype) == 2) {  // backward reads the stored output
    ASSERT_TRUE(close(t.o, e.o, tolerance)) << "o";
    copy_values(e.o, t.o);
  }
  reference.backward(exact.ctx, e);
  gpu.run(implementation, tested.ctx, t, Direction::backward);
  const auto found = tested.results(), expected = exact.results();
  expect_close_results(found, expected, tolerance);
}

/// The same over a covering set of all options, with the pair and implementation of `pair`.
inline void compare_over_all_options(const CaseOptions& pair, DType dtype, double tolerance) {
  int cases = 0;
  for (const std::uint32_t seed : {11, 12})
    for_each_combination(pair.score, pair.normalizer, seed, [&](CaseOptions options) {
      if (testing::Test::HasFatalFailure()) return;
      SCOPED_TRACE(describe(options));
      ++cases;
      options.implementation = pair.implementation;
      compare_with_cpu(options, dtype, tolerance);
    });
  EXPECT_GT(cases, 80);
  std::printf("%d cases\n", cases);
}

/// Both directions, by `implementation`.
inline void run_on_gpu(AttentionCase& c, const std::string& implementation) {
  GpuCopies gpu;
  for (const Direction direction : {Direction::forward, Direction::backward})
    gpu.run(find_implementation(implementation), c.ctx, c.problem, direction);
}

inline void expect_same_bits_in_every_run(CaseOptions options, DType dtype) {
  options.dtype = dtype;
  AttentionCase first(options), again(options);
  for (AttentionCase* run : {&first, &again}) run_on_gpu(*run, options.implementation);
  expect_same_bits(again, first);
}

/// Sizes that take several blocks of rows, with what the options do at their edges.
inline std::vector<CaseOptions> several_blocks(const CaseOptions& base) {
  CaseOptions o = base;
  o.B = 2, o.H = 4, o.Hk = 2, o.L = 300, o.S = 330, o.D = 20, o.Dv = 24;
  o.threshold = o.score == Score::piecewise ? 90 : 0;
  o.groups = o.score == Score::cosine ? 4 : 1;
  for (const HeadParameterInfo& info : find_normalizer(o.normalizer).parameters)
    o.parameters.push_back(info.example);
  std::vector<CaseOptions> all{o};
  o.causal = true, o.bias = {1, 4, 300, 330}, o.dropout = 0.2;
  all.push_back(o);
  o.causal = false, o.window = {70, 9}, o.bias = {2, 1, 1, 330}, o.key_padding = true;
  o.layout = Layout::rows_first;
  all.push_back(o);
  o.window = {-1, -1}, o.bias = {1, 1, 130, 150}, o.alibi_rank = 2;
  o.queries = {3, 0, 130, 129, 1}, o.keys = {150, 7, 130, 5, 0};
  all.push_back(o);
  return all;
}

}  // namespace quietformer::test
