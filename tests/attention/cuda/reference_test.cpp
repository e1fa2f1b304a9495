// The reference on a GPU against the reference on the CPU in f64: over a covering set of all
// options, over sizes that take several blocks and chunks, and in every storage type.
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "tests/attention/cuda/gpu_compare.h"

namespace quietformer {
namespace {

using test::AttentionCase;
using test::CaseOptions;
using test::compare_with_cpu;
using test::several_blocks;

class GpuReference : public testing::TestWithParam<test::Pair> {
 protected:
  void SetUp() override {
    if (const std::string reason = cuda::unavailable(); !reason.empty()) GTEST_SKIP() << reason;
    options_.score = std::get<0>(GetParam());
    options_.normalizer = std::get<1>(GetParam());
    options_.implementation = "reference";
  }
  CaseOptions options_;
};

TEST_P(GpuReference, IsThatOfTheCpuOverAllOptions) {
  int cases = 0;
  for (const std::uint32_t seed : {11, 12})
    test::for_each_combination(options_.score, options_.normalizer, seed, [&](CaseOptions options) {
      if (HasFatalFailure()) return;
      SCOPED_TRACE(test::describe(options));
      ++cases;
      options.implementation = "reference";
      compare_with_cpu(options, DType::f64, 1e-10);
    });
  EXPECT_GT(cases, 80);
  std::printf("%d cases\n", cases);
}

TEST_P(GpuReference, IsThatOfTheCpuAcrossBlocks) {
  for (const CaseOptions& options : several_blocks(options_)) {
    SCOPED_TRACE(test::describe(options));
    compare_with_cpu(options, DType::f64, 1e-10);
    compare_with_cpu(options, DType::f32, 2e-5);
    if (HasFatalFailure()) return;
  }
}

// Products and sums are those of f32; what is left is the rounding of o and of the gradients to the
// nearest of 8 or 11 bits.
TEST_P(GpuReference, RoundsSixteenBitsOnce) {
  CaseOptions options = several_blocks(options_)[1];
  options.B = 1, options.L = 70, options.S = 83, options.bias = {1, 4, 70, 83};
  for (int packed = 0; packed < 2; ++packed) {
    compare_with_cpu(options, DType::bf16, 1.0 / 256 + 2e-5);
    compare_with_cpu(options, DType::f16, 1.0 / 2048 + 2e-5);
    options.queries = {3, 0, 9}, options.keys = {5, 2, 9}, options.bias = {};
  }
}

TEST_P(GpuReference, HasTheSameBitsInEveryRun) {
  CaseOptions options = several_blocks(options_)[1];
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
    test::copy_values(plain.problem.*member, rows);
  }
  const AttentionImplementation& reference = test::find_implementation("reference");
  test::GpuCopies gpu;
  for (const Direction direction : {Direction::forward, Direction::backward})
    gpu.run(reference, repeated.ctx, repeated.problem, direction);
  reference.forward(plain.ctx, plain.problem), reference.backward(plain.ctx, plain.problem);
  // Equal values make gradients of scores vanish, but for rounding of terms around 1.
  const auto a = repeated.results(), b = plain.results();
  for (std::size_t i = 0; i < a.size(); ++i)
    for (std::int64_t e = 0; e < b[i].second.count(); ++e)
      ASSERT_NEAR(test::get(a[i].second, e), test::get(b[i].second, e),
                  1e-10 * std::max(1.0, test::max_abs(b[i].second)))
          << a[i].first << ", element " << e;
}

INSTANTIATE_TEST_SUITE_P(All, GpuReference, testing::ValuesIn(test::all_pairs()), test::pair_name);

}  // namespace
}  // namespace quietformer
