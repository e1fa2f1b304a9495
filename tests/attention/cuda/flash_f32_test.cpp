// `flash` in f32 on a GPU against the reference on the CPU in f64: over a covering set of all
// options, over sizes that take several tiles, over head dims, and its bits from run to run.
#include <gtest/gtest.h>

#include <string>

#include "tests/attention/cuda/gpu_compare.h"
#include "tests/attention/cuda/gpu_pair_test.h"

namespace quietformer {
namespace {

using test::CaseOptions;
using test::compare_with_cpu;

class GpuFlashInF32 : public test::GpuPairTest<CaseOptions> {
 protected:
  GpuFlashInF32() { options_.implementation = "flash"; }
};

TEST_P(GpuFlashInF32, IsTheDefinitionOverAllOptions) {
  test::compare_over_all_options(options_, DType::f32, 2e-5);
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
  test::expect_same_bits_in_every_run(test::several_blocks(options_)[1], DType::f32);
}

TEST_P(GpuFlashInF32, TakesAnyNumberWhereAKeyIsHidden) {
  options_.dtype = DType::f32;
  test::expect_hidden_keys_not_to_matter(
      options_, [](test::AttentionCase& c) { test::run_on_gpu(c, "flash"); });
}

INSTANTIATE_TEST_SUITE_P(All, GpuFlashInF32, testing::ValuesIn(test::all_pairs()), test::pair_name);

}  // namespace
}  // namespace quietformer
