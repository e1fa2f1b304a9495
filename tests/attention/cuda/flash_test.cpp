// Forward of `flash` on a GPU against the f64 CPU: the twofold rule (design.md, Testing) over a
// covering set of shapes, layouts and options, its bits from run to run, and what it refuses.
#include "attention/cuda/flash.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "attention/cuda/shared_memory.h"
#include "tests/attention/cuda/gpu_options.h"
#include "tests/attention/cuda/gpu_pair_test.h"

namespace quietformer {
namespace {

using test::gpu_tensor;
using test::GpuCase;
using test::GpuOptions;

class GpuFlash : public test::GpuPairTest<GpuOptions> {};

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

/// On a GPU whose blocks stay: what one has left of a tile meets the next. The last rows of a tile
/// are few, and of its keys some are far for them and none near.
TEST_P(GpuFlash, IsCorrectWhereBlocksTakeManyTiles) {
  options_.B = 1, options_.H = options_.Hk = 150, options_.L = options_.S = 160;
  options_.causal = true;
  options_.threshold = options_.score == Score::piecewise ? 16 : 0;
  for (const int dim : {64, 128}) {
    options_.D = options_.Dv = dim;
    if (!test::built(options_)) continue;
    GpuCase gpu(options_);
    gpu.forward();
    gpu.expect_correct();
  }
}

/// Groups of a block's rows pass over tiles of keys at the end of the near ones and at the begin of
/// the far ones, both.
TEST_P(GpuFlash, IsCorrectWhereRowsPassOverTiles) {
  options_.B = 1, options_.H = options_.Hk = 1, options_.L = 256;
  options_.causal = true;
  for (const int dim : {64, 128})
    for (const int keys : {130, 240, 720}) {  // 130: two of them in a row at D 128
      options_.D = options_.Dv = dim, options_.S = keys;
      options_.threshold = options_.score == Score::piecewise ? 70 : 0;
      for (const int left : {-1, 250}) {
        options_.window = {left, -1};
        if (!test::built(options_)) continue;
        GpuCase gpu(options_);
        gpu.forward();
        gpu.expect_correct();
      }
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

/// How scores of later keys come to be the larger ones.
enum class Rise { by_chance, along_keys, in_the_far_pair };

/// Scores so wide that maxima still rise after the first tile. `scale` multiplies products of
/// variance 64 (cosine: 1); `far_size` is that of q2 and k2.
struct Growth {
  int dim;
  bool general;  // the kernels that know every option
  Rise rise;
  double scale, far_size;
};

// By chance: by hardly anything, by so much that rows follow, and within one tile by more than f16
// or bf16 holds. Along keys (ALiBi) by 0.3 a key, which bf16 follows and f16 starts again for. From
// the near keys to the far ones by some tens and by hundreds.
constexpr Growth kGrowths[] = {
    {64, false, Rise::by_chance, 0.3, 1},        {64, false, Rise::by_chance, 2, 1},
    {64, false, Rise::by_chance, 8, 1},          {64, false, Rise::by_chance, 100, 1},
    {128, false, Rise::by_chance, 0.3, 1},       {128, false, Rise::by_chance, 8, 1},
    {256, false, Rise::by_chance, 0.3, 1},       {256, false, Rise::by_chance, 8, 1},
    {64, true, Rise::by_chance, 8, 1},           {128, true, Rise::by_chance, 2, 1},
    {256, true, Rise::by_chance, 8, 1},          {64, true, Rise::along_keys, 0.05, 1},
    {128, true, Rise::along_keys, 0.05, 1},      {256, true, Rise::along_keys, 0.05, 1},
    {64, false, Rise::in_the_far_pair, 0.3, 2},  {64, true, Rise::in_the_far_pair, 0.3, 6},
    {128, false, Rise::in_the_far_pair, 0.3, 6}, {128, true, Rise::in_the_far_pair, 0.3, 2},
    {256, false, Rise::in_the_far_pair, 0.3, 2}, {256, true, Rise::in_the_far_pair, 0.3, 6},
};

TEST_P(GpuFlash, FollowsMaximaThatGrow) {
  options_.B = 1, options_.H = options_.Hk = 1, options_.L = 130, options_.S = 1024;
  options_.parameters = {options_.normalizer == "clipped_softmax" ? -0.01 : 0.5};
  int cases = 0;
  for (const Growth& growth : kGrowths) {
    const bool far = growth.rise == Rise::in_the_far_pair;
    if (far && options_.score != Score::piecewise) continue;
    GpuOptions o = options_;
    o.D = o.Dv = growth.dim;
    o.threshold = options_.score == Score::piecewise ? 500 : 0, o.far_size = growth.far_size;
    o.scale = growth.scale * (options_.score == Score::cosine ? std::sqrt(growth.dim)
                                                              : std::sqrt(64.0 / growth.dim));
    o.alibi_rank = growth.rise == Rise::along_keys ? 1 : 0;
    o.key_padding = growth.general && growth.rise != Rise::along_keys;
    for (o.storage = DType::bf16;; o.storage = DType::f16) {
      if (test::built(o)) {
        SCOPED_TRACE(describe(o) + " scale=" + std::to_string(growth.scale));
        GpuCase gpu(o);
        gpu.forward();
        gpu.expect_correct();
        ++cases;
      }
      if (o.storage == DType::f16) break;
    }
  }
  std::printf("%d cases\n", cases);
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
