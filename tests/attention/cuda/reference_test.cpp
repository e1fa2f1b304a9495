// The reference on a GPU against the reference on the CPU in f64: over a covering set of all
// options, over sizes that take several blocks and chunks, and in every storage type.
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "tests/attention/option_grid.h"

namespace quietformer {
namespace {

using test::AttentionCase;
using test::CaseOptions;

void copy_values(const Tensor& to, const Tensor& from) {
  for (std::int64_t i = 0; i < to.count() && to.data != nullptr; ++i)
    test::set(to, i, test::get(from, i));
}

/// Forward and backward in `dtype` on the GPU against f64 on the CPU from the same inputs.
void compare(CaseOptions options, DType dtype, double tolerance) {
  options.implementation = "reference";
  options.dtype = DType::f64;
  AttentionCase exact(options);
  options.dtype = dtype;
  AttentionCase tested(options);
  AttentionProblem &e = exact.problem, &t = tested.problem;
  for (const auto member : {&AttentionProblem::q, &AttentionProblem::k, &AttentionProblem::v,
                            &AttentionProblem::q2, &AttentionProblem::k2, &AttentionProblem::do_,
                            &AttentionProblem::bias, &AttentionProblem::alibi_slopes})
    copy_values(e.*member, t.*member);  // as rounded
  const AttentionImplementation& reference = test::find_implementation("reference");
  test::GpuCopies gpu;
  reference.forward(exact.ctx, e);
  gpu.run(reference, tested.ctx, t, Direction::forward);
  if (dtype == DType::bf16) copy_values(e.o, t.o);  // backward reads the stored output
  reference.backward(exact.ctx, e);
  gpu.run(reference, tested.ctx, t, Direction::backward);
  const auto found = tested.results(), expected = exact.results();
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i)
    ASSERT_TRUE(test::close(found[i].second, expected[i].second, tolerance)) << found[i].first;
}

class GpuReference : public testing::TestWithParam<test::Pair> {
 protected:
  void SetUp() override {
    if (const std::string reason = cuda::unavailable(); !reason.empty()) GTEST_SKIP() << reason;
    options_.score = std::get<0>(GetParam());
    options_.normalizer = std::get<1>(GetParam());
  }
  CaseOptions options_;
};

TEST_P(GpuReference, IsThatOfTheCpuOverAllOptions) {
  int cases = 0;
  for (const std::uint32_t seed : {11, 12})
    test::for_each_combination(options_.score, options_.normalizer, seed,
                               [&](const CaseOptions& options) {
                                 if (HasFatalFailure()) return;
                                 SCOPED_TRACE(test::describe(options));
                                 ++cases;
                                 compare(options, DType::f64, 1e-10);
                               });
  EXPECT_GT(cases, 80);
  std::printf("%d cases\n", cases);
}

/// Sizes that take several blocks of rows, with what the options do at their edges.
std::vector<CaseOptions> large(const CaseOptions& base) {
  CaseOptions o = base;
  o.B = 2, o.H = 4, o.Hk = 2, o.L = 520, o.S = 600, o.D = 20, o.Dv = 24;
  o.threshold = o.score == Score::piecewise ? 90 : 0;
  o.groups = o.score == Score::cosine ? 4 : 1;
  for (const HeadParameterInfo& info : find_normalizer(o.normalizer).parameters)
    o.parameters.push_back(info.example);
  std::vector<CaseOptions> all{o};
  o.causal = true, o.bias = {1, 4, 520, 600}, o.dropout = 0.2;
  all.push_back(o);
  o.causal = false, o.window = {70, 9}, o.bias = {2, 1, 1, 600}, o.key_padding = true;
  o.layout = test::Layout::rows_first;
  all.push_back(o);
  o.window = {-1, -1}, o.bias = {1, 1, 130, 150}, o.alibi_rank = 2;
  o.queries = {3, 0, 130, 129, 1}, o.keys = {150, 7, 130, 5, 0};
  all.push_back(o);
  return all;
}

TEST_P(GpuReference, IsThatOfTheCpuAcrossBlocks) {
  for (const CaseOptions& options : large(options_)) {
    SCOPED_TRACE(test::describe(options));
    compare(options, DType::f64, 1e-10);
    compare(options, DType::f32, 2e-5);
    if (HasFatalFailure()) return;
  }
}

// Products and sums are those of f32; what is left is the rounding of o and of the gradients to the
// nearest of 8 bits.
TEST_P(GpuReference, RoundsSixteenBitsOnce) {
  CaseOptions options = large(options_)[1];
  options.B = 1, options.L = 70, options.S = 83, options.bias = {1, 4, 70, 83};
  compare(options, DType::bf16, 1.0 / 512 + 2e-5);
  options.queries = {3, 0, 9}, options.keys = {5, 2, 9}, options.bias = {};
  compare(options, DType::bf16, 1.0 / 512 + 2e-5);
}

TEST_P(GpuReference, HasTheSameBitsInEveryRun) {
  CaseOptions options = large(options_)[1];
  options.dtype = DType::f32, options.implementation = "reference";
  AttentionCase first(options), again(options);
  const AttentionImplementation& reference = test::find_implementation("reference");
  for (AttentionCase* run : {&first, &again}) {
    test::GpuCopies gpu;
    gpu.run(reference, run->ctx, run->problem, Direction::forward);
    gpu.run(reference, run->ctx, run->problem, Direction::backward);
  }
  const auto a = first.results(), b = again.results();
  for (std::size_t i = 0; i < a.size(); ++i)
    EXPECT_TRUE(test::same_bits(a[i].second, b[i].second)) << a[i].first;
}

// Rows that repeat (stride 0): cuBLAS takes no such matrix.
TEST_P(GpuReference, TakesRowsThatOverlap) {
  CaseOptions options = options_;
  options.implementation = "reference";
  AttentionCase repeated(options), plain(options);
  for (const auto member :
       {&AttentionProblem::k, &AttentionProblem::v, &AttentionProblem::q, &AttentionProblem::do_}) {
    Tensor& rows = repeated.problem.*member;
    rows.stride[2] = 0;
    copy_values(plain.problem.*member, rows);
  }
  const AttentionImplementation& reference = test::find_implementation("reference");
  test::GpuCopies gpu;
  for (const Direction direction : {Direction::forward, Direction::backward})
    gpu.run(reference, repeated.ctx, repeated.problem, direction);
  reference.forward(plain.ctx, plain.problem), reference.backward(plain.ctx, plain.problem);
  const auto a = repeated.results(), b = plain.results();
  for (std::size_t i = 0; i < a.size(); ++i)
    EXPECT_TRUE(test::close(a[i].second, b[i].second, 1e-10)) << a[i].first;
}

INSTANTIATE_TEST_SUITE_P(All, GpuReference, testing::ValuesIn(test::all_pairs()), test::pair_name);

}  // namespace
}  // namespace quietformer
