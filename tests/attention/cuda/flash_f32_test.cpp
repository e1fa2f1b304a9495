// `flash` in f32 on a GPU against the reference on the CPU in f64: over a covering set of all
// options, over sizes that take several tiles, over head dims, and its bits from run to run.
#include <gtest/gtest.h>

#include <string>

#include "tests/attention/cuda/gpu_compare.h"

namespace quietformer {
namespace {

using test::AttentionCase;
using test::CaseOptions;
using test::compare_with_cpu;

class GpuFlashInF32 : public testing::TestWithParam<test::Pair> {
 protected:
  void SetUp() override {
    if (const std::string reason = cuda::unavailable(); !reason.empty()) GTEST_SKIP() << reason;
    options_.score = std::get<0>(GetParam());
    options_.normalizer = std::get<1>(GetParam());
    options_.implementation = "flash";
  }
  CaseOptions options_;
};

TEST_P(GpuFlashInF32, IsTheDefinitionOverAllOptions) {
  int cases = 0;
  for (const std::uint32_t seed : {11, 12})
    test::for_each_combination(options_.score, options_.normalizer, seed, [&](CaseOptions options) {
      if (HasFatalFailure()) return;
      SCOPED_TRACE(test::describe(options));
      ++cases;
      options.implementation = "flash";
      compare_with_cpu(options, DType::f32, 2e-5);
    });
  EXPECT_GT(cases, 80);
  std::printf("%d cases\n", cases);
}

TEST_P(GpuFlashInF32, IsTheDefinitionAcrossTiles) {
  for (const CaseOptions& options : test::several_blocks(options_)) {
    SCOPED_TRACE(test::describe(options));
    compare_with_cpu(options, DType::f32, 2e-5);
    if (HasFatalFailure()) return;
  }
}

TEST_P(GpuFlashInF32, TakesHeadDimsTo256) {
  options_.B = 1, options_.Hk = 1, options_.L = 65, options_.S = 130, options_.causal = true;
  options_.threshold = options_.score == Score::piecewise ? 30 : 0;
  for (const auto& [dim, value_dim] :
       {std::pair{64, 64}, {65, 3}, {128, 100}, {130, 256}, {256, 1}}) {
    options_.D = dim, options_.Dv = value_dim;
    SCOPED_TRACE(std::to_string(dim) + " " + std::to_string(value_dim));
    compare_with_cpu(options_, DType::f32, 2e-5);
  }
}

TEST_P(GpuFlashInF32, HasTheSameBitsInEveryRun) {
  CaseOptions options = test::several_blocks(options_)[1];
  options.dtype = DType::f32;
  AttentionCase first(options), again(options);
  const AttentionImplementation& flash = test::find_implementation("flash");
  for (AttentionCase* run : {&first, &again}) {
    test::GpuCopies gpu;
    gpu.run(flash, run->ctx, run->problem, Direction::forward);
    gpu.run(flash, run->ctx, run->problem, Direction::backward);
  }
  const auto a = first.results(), b = again.results();
  for (std::size_t i = 0; i < a.size(); ++i)
    EXPECT_TRUE(test::same_bits(a[i].second, b[i].second)) << a[i].first;
}

INSTANTIATE_TEST_SUITE_P(All, GpuFlashInF32, testing::ValuesIn(test::all_pairs()), test::pair_name);

}  // namespace
}  // namespace quietformer
