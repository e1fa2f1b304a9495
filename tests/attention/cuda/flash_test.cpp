// Forward of `flash` on a GPU against the f64 CPU: the twofold rule (design.md, Testing) over a
// covering set of shapes, layouts and options, its bits from run to run, and what it refuses.
#include "attention/cuda/flash.h"

#include <gtest/gtest.h>

#include <string>

#include "attention/cuda/shared_memory.h"
#include "tests/attention/cuda/gpu_options.h"

namespace quietformer {
namespace {

using test::gpu_tensor;
using test::GpuCase;
using test::GpuOptions;

class GpuFlash : public testing::TestWithParam<test::Pair> {
 protected:
  void SetUp() override {
    if (const std::string reason = cuda::unavailable(); !reason.empty()) GTEST_SKIP() << reason;
    options_.score = std::get<0>(GetParam());
    options_.normalizer = std::get<1>(GetParam());
  }
  GpuOptions options_;
};

void expect_correct_over(const GpuOptions& pair, const std::vector<test::OptionValues>& options) {
  test::for_each_built(pair, options, 1, [](const GpuOptions& o) {
    SCOPED_TRACE(describe(o));
    GpuCase gpu(o);
    gpu.forward();
    gpu.expect_correct();
  });
}

TEST_P(GpuFlash, KeepsTheTwofoldRule) {
  expect_correct_over(options_, test::gpu_options());
}

TEST_P(GpuFlash, KeepsTheTwofoldRuleWithEveryOption) {
  expect_correct_over(options_, test::general_options());
}

TEST_P(GpuFlash, HasTheSameBitsInEveryRun) {
  options_.B = 2, options_.H = 8, options_.Hk = 2, options_.L = options_.S = 777;
  options_.D = options_.Dv = 64;
  options_.causal = true;
  if (!test::built(options_)) GTEST_SKIP() << "not in this build";
  GpuCase gpu(options_);
  gpu.forward();
  const auto first = gpu.bits();
  for (int run = 0; run < 20; ++run) {
    gpu.forward();
    ASSERT_EQ(gpu.bits(), first);
  }
}

TEST_P(GpuFlash, GivesZeroToRowsThatSeeNoKey) {
  options_.B = 1, options_.H = options_.Hk = 1, options_.L = 200, options_.D = options_.Dv = 16;
  options_.causal = true;
  if (!test::built(options_)) GTEST_SKIP() << "not in this build";
  for (const int keys : {0, 30}) {
    options_.S = keys;
    GpuCase gpu(options_);
    gpu.forward();
    gpu.expect_correct();
    const auto bits = gpu.bits();
    for (int i = 0; i < (200 - keys) * 16; ++i) ASSERT_EQ(bits[0][std::size_t(i)], 0) << i;
  }
}

// Scores so wide that maxima still rise after the first tile: from -60 to 60 by less than what
// makes a row follow, wider ones within one tile by more than f16 (hundreds) or bf16 (thousands)
// holds.
TEST_P(GpuFlash, FollowsMaximaThatGrow) {
  options_.B = 1, options_.H = options_.Hk = 1, options_.L = 130, options_.S = 1024;
  options_.D = options_.Dv = 64, options_.parameters = {0.5};
  for (const DType storage : {DType::bf16, DType::f16})
    for (const double scale : {0.3, 2.0, 8.0, 100.0}) {
      options_.storage = storage;
      if (!test::built(options_)) continue;
      options_.scale = scale * (options_.score == Score::cosine ? 8 : 1);
      SCOPED_TRACE(describe(options_));
      GpuCase gpu(options_);
      gpu.forward();
      gpu.expect_correct();
    }
}

// CUDA C++ Programming Guide, "Maximum amount of shared memory per thread block".
TEST(SharedMemory, OfABlockByComputeCapability) {
  const auto of = [](int major, int minor) {
    cuda::Gpu gpu;
    gpu.major = major, gpu.minor = minor;
    return cuda::shared_memory_of_block(gpu) / 1024;
  };
  EXPECT_EQ(of(8, 0), 163);
  EXPECT_EQ(of(8, 6), 99);
  EXPECT_EQ(of(8, 7), 163);
  EXPECT_EQ(of(8, 9), 99);
  EXPECT_EQ(of(9, 0), 227);
  EXPECT_EQ(of(10, 0), 227);
  EXPECT_EQ(of(12, 0), 99);
}

INSTANTIATE_TEST_SUITE_P(All, GpuFlash, testing::ValuesIn(test::built_pairs()), test::pair_name);

std::string refusal(const AttentionProblem& problem) {
  return cuda::flash_implementation().why_not(problem, Direction::forward).value_or("");
}

// Shapes and options alone decide, so this needs no GPU.
TEST(GpuFlashRefuses, InOneLineThatNamesTheOption) {
  AttentionProblem good;
  good.q = good.k = good.v = gpu_tensor(DType::bf16, {1, 2, 4, 64});
  good.scale = 1;
  EXPECT_EQ(refusal(good), "");
  EXPECT_EQ(cuda::flash_implementation().why_not(good, Direction::backward), std::nullopt);

  AttentionProblem p = good;
  p.q.device = {};
  EXPECT_EQ(refusal(p), "runs on GPUs only");
  p = good, p.q.dtype = DType::f32;
  EXPECT_EQ(refusal(p), "type f32, takes bf16 and f16 on GPUs");
  p = good, p.q.shape[3] = p.k.shape[3] = 264;
  EXPECT_EQ(refusal(p), "head dim D = 264, takes at most 256");
  p = good, p.v.shape[3] = 257;
  EXPECT_EQ(refusal(p), "head dim Dv = 257, takes at most 256");
  p = good, p.q.shape[2] = p.k.shape[2] = std::int64_t{1} << 31;
  EXPECT_EQ(refusal(p), "more rows than 32 bits count");
  p = good, p.weights = gpu_tensor(DType::f32, {1, 2, 4, 4});
  EXPECT_EQ(refusal(p), "never holds the weights that the problem asks for");
}

}  // namespace
}  // namespace quietformer
