// The reference on a GPU against the reference on the CPU in f64: over a covering set of all
// options, over sizes that take several blocks and chunks, and in every storage type.
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "attention/cuda/reference.h"
#include "tests/attention/cuda/gpu_compare.h"
#include "tests/attention/cuda/gpu_pair_test.h"

namespace quietformer {
namespace {

using test::AttentionCase;
using test::CaseOptions;
using test::compare_with_cpu;
using test::several_blocks;

class GpuReference : public test::GpuPairTest<CaseOptions> {
 protected:
  GpuReference() { options_.implementation = "reference"; }
};

TEST_P(GpuReference, IsThatOfTheCpuOverAllOptions) {
  test::compare_over_all_options(options_, DType::f64, 1e-10);
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
  test::expect_same_bits_in_every_run(several_blocks(options_)[1], DType::f32);
}

// More sequences than a grid is deep, each with a bias of its own.
TEST_P(GpuReference, TakesABiasForEachOfManySequences) {
  constexpr int kSequences = 65'600;
  options_.H = options_.Hk = 1, options_.D = options_.Dv = 1;
  options_.queries.assign(kSequences, 0), options_.keys.assign(kSequences, 0);
  for (const int b : {0, 7, 65'534, 65'535, 65'536, 65'599})
    options_.queries[std::size_t(b)] = 2, options_.keys[std::size_t(b)] = 3;
  options_.bias = {kSequences, 1, 2, 3};
  compare_with_cpu(options_, DType::f32, 2e-5);
}

// Rows that repeat (stride 0): cuBLAS takes no such matrix.
TEST_P(GpuReference, TakesRowsThatOverlap) {
  AttentionCase repeated(options_), plain(options_);
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

// Shapes alone decide, so this needs no GPU.
TEST(GpuReferenceRefuses, MoreHeadsThanItCounts) {
  AttentionProblem p;
  p.q = p.k = p.v = Tensor(nullptr, DType::f32, {1 << 16, 1 << 14, 1, 1}, {DeviceType::cuda, 0});
  const AttentionImplementation& reference = cuda::reference_implementation();
  EXPECT_EQ(reference.why_not(p, Direction::forward), std::nullopt);
  p.q.shape[0] = p.k.shape[0] = p.v.shape[0] = 1 << 17;
  EXPECT_EQ(reference.why_not(p, Direction::forward), "more heads or sequences than 32 bits count");
}

}  // namespace
}  // namespace quietformer
