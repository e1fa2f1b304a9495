// Forward of `flash` on a GPU against the f64 CPU: the twofold rule (design.md, Testing) over a
// covering set of shapes, layouts and options, its bits from run to run, and what it refuses.
#include "attention/cuda/flash.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "core/math.h"
#include "tests/attention/cuda/gpu_case.h"
#include "tests/attention/option_grid.h"

namespace quietformer {
namespace {

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

template <class V, class F>
test::OptionValues values_of(const std::vector<V>& list, F&& set) {
  test::OptionValues values;
  for (const V& value : list)
    values.push_back([=](test::CaseOptions& o) { set(static_cast<GpuOptions&>(o), value); });
  return values;
}

std::vector<test::OptionValues> gpu_options() {
  const std::vector<int> lengths{1, 63, 64, 65, 128, 129, 513, 1024};
  const double nothing = -math::kInfinity<double>;
  return {
      values_of<DType>({DType::bf16, DType::f16}, [](GpuOptions& o, DType t) { o.storage = t; }),
      values_of<int>(lengths, [](GpuOptions& o, int L) { o.L = L; }),
      values_of<int>(lengths, [](GpuOptions& o, int S) { o.S = S; }),
      values_of<int>({16, 40, 64, 80, 128}, [](GpuOptions& o, int D) { o.D = o.Dv = D; }),
      values_of<int>(
          {0, 24, -3},
          [](GpuOptions& o, int more) { o.Dv = std::min<std::int64_t>(o.Dv + more, 128); }),
      values_of<bool>({false, true}, [](GpuOptions& o, bool causal) { o.causal = causal; }),
      values_of<std::pair<int, int>>({{2, 2}, {4, 2}, {3, 1}},
                                     [](GpuOptions& o, std::pair<int, int> heads) {
                                       o.H = heads.first, o.Hk = heads.second;
                                       o.B = o.L * o.S > 300 * 300 ? 1 : 2;
                                     }),
      values_of<test::Rows>({test::Rows::heads_first, test::Rows::rows_first,
                             test::Rows::slice_of_packed, test::Rows::misaligned},
                            [](GpuOptions& o, test::Rows rows) { o.rows = rows; }),
      // n and sink logit of softmax_n; of sigmoid the bias, -ln S among them.
      values_of<std::pair<double, double>>(
          {{0, nothing}, {1, nothing}, {4, nothing}, {0, 0.5}, {0.5, 100}},
          [](GpuOptions& o, std::pair<double, double> sink) {
            if (o.normalizer == "softmax_n")
              o.parameters = {sink.first, sink.second};
            else
              o.parameters = {sink.first == 1 ? 0.5 : -std::log(double(o.S))};
          }),
      values_of<std::array<std::int64_t, 2>>(
          {{-1, -1}, {-1, -1}, {100, -1}, {0, 70}},
          [](GpuOptions& o, std::array<std::int64_t, 2> window) { o.window = window; }),
      values_of<int>({0, 1, 70, 600},
                     [](GpuOptions& o, int threshold) {
                       o.threshold = o.score == Score::piecewise ? threshold : 0;
                     }),
      // Size of the scores, the last with the sign of the scale changed.
      values_of<double>(
          {1, 5, 1e-3, -2},
          [](GpuOptions& o, double size) { o.scale = size * default_scale(o.score, o.D); }),
  };
}

std::string describe(const GpuOptions& o) {
  return test::describe(o) + " D=" + std::to_string(o.D) + " " + std::string(name_of(o.storage)) +
         " rows=" + std::to_string(int(o.rows));
}

TEST_P(GpuFlash, KeepsTheTwofoldRule) {
  const auto options = gpu_options();
  std::uint32_t cases = 0;
  for (const std::vector<int>& row : test::covering_array(options, 1)) {
    GpuOptions o = options_;
    o.seed = ++cases;
    for (std::size_t i = 0; i < options.size(); ++i) options[i][std::size_t(row[i])](o);
    SCOPED_TRACE(describe(o));
    GpuCase gpu(o);
    gpu.forward();
    gpu.expect_correct();
    if (HasFatalFailure()) return;
  }
  std::printf("%u cases\n", cases);
}

TEST_P(GpuFlash, HasTheSameBitsInEveryRun) {
  options_.B = 2, options_.H = 8, options_.Hk = 2, options_.L = options_.S = 777;
  options_.D = options_.Dv = 64;
  options_.causal = true;
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
  for (const int keys : {0, 30}) {
    options_.S = keys;
    GpuCase gpu(options_);
    gpu.forward();
    gpu.expect_correct();
    const auto bits = gpu.bits();
    for (int i = 0; i < (200 - keys) * 16; ++i) ASSERT_EQ(bits[0][std::size_t(i)], 0) << i;
  }
}

// Scores from -60 to 60 whose order makes maxima grow over many tiles, some by less than what makes
// a row rescale.
TEST_P(GpuFlash, FollowsMaximaThatGrow) {
  options_.B = 1, options_.H = options_.Hk = 1, options_.L = 130, options_.S = 1024;
  options_.D = options_.Dv = 64, options_.parameters = {0.5};
  for (const double scale : {0.3, 2.0, 8.0}) {
    options_.scale = scale * (options_.score == Score::cosine ? 8 : 1);
    GpuCase gpu(options_);
    gpu.forward();
    gpu.expect_correct();
  }
}

Tensor gpu_tensor(DType dtype, const Shape& shape) {
  return Tensor(nullptr, dtype, shape, test::kGpu);
}

/// The pairs that QUIETFORMER_ATTENTION_INSTANCES has.
std::vector<test::Pair> built_pairs() {
  std::vector<test::Pair> pairs = test::all_pairs();
  std::erase_if(pairs, [](const test::Pair& pair) {
    AttentionProblem p;
    p.q = p.k = p.v = gpu_tensor(DType::bf16, {1, 1, 1, 64});
    p.score = std::get<0>(pair);
    p.normalizer = find_normalizer(std::get<1>(pair)).name;
    return cuda::flash_implementation().why_not(p, Direction::forward).has_value();
  });
  return pairs;
}

INSTANTIATE_TEST_SUITE_P(All, GpuFlash, testing::ValuesIn(built_pairs()), test::pair_name);

std::string refusal(const AttentionProblem& problem) {
  return cuda::flash_implementation().why_not(problem, Direction::forward).value_or("");
}

// Shapes and options alone decide, so this needs no GPU.
TEST(GpuFlashRefuses, InOneLineThatNamesTheOption) {
  AttentionProblem good;
  good.q = good.k = good.v = gpu_tensor(DType::bf16, {1, 2, 4, 64});
  good.scale = 1;
  EXPECT_EQ(refusal(good), "");
  EXPECT_EQ(cuda::flash_implementation().why_not(good, Direction::backward),
            "has no backward on GPUs");

  AttentionProblem p = good;
  p.q.device = {};
  EXPECT_EQ(refusal(p), "runs on GPUs only");
  p = good, p.q.dtype = DType::f32;
  EXPECT_EQ(refusal(p), "type f32, takes bf16 and f16 on GPUs");
  p = good, p.q.shape[3] = p.k.shape[3] = 192;
  EXPECT_EQ(refusal(p), "head dim D = 192, takes at most 128");
  p = good, p.v.shape[3] = 129;
  EXPECT_EQ(refusal(p), "head dim Dv = 129, takes at most 128");
  p = good, p.score = Score::cosine, p.groups = 2;
  EXPECT_EQ(refusal(p), "groups = 2, takes 1 on GPUs");
  p = good, p.q.shape[2] = p.k.shape[2] = std::int64_t{1} << 31;
  EXPECT_EQ(refusal(p), "more rows than 32 bits count");
  p = good, p.mask = gpu_tensor(DType::u8, {1, 1, 4, 4});
  EXPECT_EQ(refusal(p), "does not take mask on GPUs");
  p = good, p.key_padding = gpu_tensor(DType::u8, {1, 4});
  EXPECT_EQ(refusal(p), "does not take key_padding on GPUs");
  p = good, p.bias = gpu_tensor(DType::f32, {1, 1, 4, 4});
  EXPECT_EQ(refusal(p), "does not take bias on GPUs");
  p = good, p.alibi_slopes = gpu_tensor(DType::f32, {2});
  EXPECT_EQ(refusal(p), "does not take alibi_slopes on GPUs");
  p = good, p.dropout.probability = 0.1;
  EXPECT_EQ(refusal(p), "does not take dropout on GPUs");
  p = good, p.cu_seqlens_q = p.cu_seqlens_k = gpu_tensor(DType::i32, {3});
  EXPECT_EQ(refusal(p), "does not take packed sequences on GPUs");
  p = good, p.total_attention = gpu_tensor(DType::f32, {1, 2, 4});
  EXPECT_EQ(refusal(p), "does not take total_attention on GPUs");
  p = good, p.weights = gpu_tensor(DType::f32, {1, 2, 4, 4});
  EXPECT_EQ(refusal(p), "does not take weights on GPUs");
}

}  // namespace
}  // namespace quietformer
