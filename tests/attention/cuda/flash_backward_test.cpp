// Backward of `flash` on a GPU against the f64 CPU: the twofold rule (design.md, Testing) over a
// covering set of shapes, layouts and options, and its bits from run to run.
#include <gtest/gtest.h>

#include <string>

#include "tests/attention/cuda/gpu_backward_case.h"
#include "tests/attention/cuda/gpu_compare.h"
#include "tests/attention/cuda/gpu_options.h"
#include "tests/attention/cuda/gpu_pair_test.h"

namespace quietformer {
namespace {

using test::GpuBackwardCase;
using test::GpuOptions;

class GpuFlashBackward : public test::GpuPairTest<GpuOptions> {};

void expect_correct(const GpuOptions& options, bool deterministic) {
  SCOPED_TRACE(describe(options) + (deterministic ? " in order" : " atomic"));
  GpuBackwardCase gpu(options, deterministic);
  gpu.forward();
  gpu.backward();
  gpu.expect_correct_gradients();
}

void expect_correct_over(const GpuOptions& pair, const std::vector<test::OptionValues>& options) {
  test::for_each_built(pair, options, 2,
                       [](const GpuOptions& o) { expect_correct(o, o.seed % 2 == 0); });
}

TEST_P(GpuFlashBackward, IsCorrectForOneTile) {
  options_.B = 1, options_.H = options_.Hk = 1, options_.L = 64, options_.S = 128;
  for (const int dim : {64, 128, 256}) {
    options_.D = options_.Dv = dim;
    if (test::built(options_)) expect_correct(options_, false);
  }
}

TEST_P(GpuFlashBackward, KeepsTheTwofoldRule) {
  expect_correct_over(options_, test::gpu_options());
}

TEST_P(GpuFlashBackward, KeepsTheTwofoldRuleWithEveryOption) {
  expect_correct_over(options_, test::general_options());
}

TEST_P(GpuFlashBackward, HasTheSameBitsInEveryRun) {
  options_.B = 2, options_.H = 8, options_.Hk = 2, options_.L = options_.S = 777;
  options_.threshold = options_.score == Score::piecewise ? 300 : 0;
  for (const bool causal : {false, true})
    for (const int dim : {64, 128, 256}) {
      options_.D = options_.Dv = dim, options_.causal = causal;
      if (!test::built(options_)) continue;
      GpuBackwardCase gpu(options_);
      gpu.forward();
      gpu.backward();
      const auto first = gpu.gradient_bits();
      for (int run = 0; run < 10; ++run) {
        gpu.backward();
        ASSERT_EQ(gpu.gradient_bits(), first) << "dim " << dim;
      }
    }
}

/// On a GPU whose blocks stay: what one has left of a tile meets the next, and who waits for its
/// turn may wait for a block that has taken its next tile.
TEST_P(GpuFlashBackward, IsCorrectWhereBlocksTakeManyTiles) {
  options_.B = 1, options_.H = 300, options_.Hk = 150, options_.L = options_.S = 136;
  options_.causal = true;
  options_.threshold = options_.score == Score::piecewise ? 16 : 0;
  for (const int dim : {64, 128}) {
    options_.D = options_.Dv = dim;
    if (!test::built(options_)) continue;
    GpuBackwardCase gpu(options_);
    gpu.forward();
    gpu.backward();
    gpu.expect_correct_gradients();
    const auto first = gpu.gradient_bits();
    for (int run = 0; run < 5; ++run) {
      gpu.backward();
      ASSERT_EQ(gpu.gradient_bits(), first) << "dim " << dim;
    }
  }
}

TEST_P(GpuFlashBackward, SumsABroadcastBiasInTheSameOrderInEveryRun) {
  options_.B = 3, options_.H = 4, options_.Hk = 2, options_.L = 200, options_.S = 300;
  options_.D = options_.Dv = 64;
  if (!test::built(options_)) GTEST_SKIP() << "not in this build";
  const auto check = [&](const Shape& bias) {
    SCOPED_TRACE(to_string(bias));
    options_.bias = bias;
    GpuBackwardCase gpu(options_);
    gpu.forward();
    gpu.backward();
    gpu.expect_correct_gradients();
    const auto first = gpu.gradient_bits();
    for (int run = 0; run < 3; ++run) {
      gpu.backward();
      ASSERT_EQ(gpu.gradient_bits(), first);
    }
  };
  for (const Shape& bias :
       {Shape{1, 1, 200, 300}, Shape{1, 4, 1, 300}, Shape{3, 1, 200, 1}, Shape{1, 1, 1, 1}})
    check(bias);
  options_.queries = {3, 0, 130, 129, 1}, options_.keys = {150, 7, 130, 5, 0};
  for (const Shape& bias : {Shape{5, 1, 130, 150}, Shape{5, 4, 1, 150}, Shape{1, 4, 130, 150},
                            Shape{1, 1, 1, 150}, Shape{5, 1, 130, 1}})
    check(bias);
}

TEST_P(GpuFlashBackward, GivesZeroToRowsThatSeeNoKey) {
  options_.B = 1, options_.H = options_.Hk = 1, options_.L = 200, options_.D = options_.Dv = 16;
  options_.causal = true;
  if (!test::built(options_)) GTEST_SKIP() << "not in this build";
  for (const int keys : {0, 30}) {
    options_.S = keys;
    GpuBackwardCase gpu(options_);
    gpu.forward();
    gpu.backward();
    gpu.expect_correct_gradients();
    const auto bits = gpu.gradient_bits();
    for (int i = 0; i < (200 - keys) * 16; ++i) ASSERT_EQ(bits[0][std::size_t(i)], 0) << i;
  }
}

TEST_P(GpuFlashBackward, TakesAnyNumberWhereAKeyIsHidden) {
  options_.implementation = "flash";
  for (const DType storage : {DType::bf16, DType::f16})
    for (const int dim : {64, 128, 256}) {
      options_.storage = options_.dtype = storage, options_.D = options_.Dv = dim;
      if (!test::built(options_)) continue;
      SCOPED_TRACE(describe(options_));
      test::expect_hidden_keys_not_to_matter(
          options_, [](test::AttentionCase& c) { test::run_on_gpu(c, "flash"); });
    }
}

INSTANTIATE_TEST_SUITE_P(All, GpuFlashBackward, testing::ValuesIn(test::built_pairs()),
                         test::pair_name);

// A grid with each key tile for each of the sequences would be 2^31 blocks and more.
TEST(GpuFlashBackwardInOrder, TakesABiasForEachOfManySequences) {
  if (const std::string reason = cuda::unavailable(); !reason.empty()) GTEST_SKIP() << reason;
  constexpr int kSequences = 16'384;
  GpuOptions options;
  options.implementation = "flash";
  options.H = options.Hk = 8, options.D = options.Dv = 8;
  options.queries.assign(kSequences, 1), options.keys.assign(kSequences, 2);
  options.bias = {kSequences, 8, 1, 2};
  if (!test::built(options)) GTEST_SKIP() << "not in this build";
  test::compare_with_cpu(options, DType::bf16, 1.0 / 64);
}

}  // namespace
}  // namespace quietformer
