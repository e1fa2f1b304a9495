// Forward of `flash` on a GPU against the f64 CPU: the twofold rule (design.md, Testing) over a
// covering set of shapes, layouts and options, its bits from run to run, and what it refuses.
#include "attention/cuda/flash.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
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
      values_of<int>({16, 40, 64, 80, 128, 160, 256}, [](GpuOptions& o, int D) { o.D = o.Dv = D; }),
      values_of<int>(
          {0, 24, -3},
          [](GpuOptions& o, int more) { o.Dv = std::min<std::int64_t>(o.Dv + more, 256); }),
      values_of<bool>({false, true}, [](GpuOptions& o, bool causal) { o.causal = causal; }),
      values_of<std::pair<int, int>>({{2, 2}, {4, 2}, {3, 1}},
                                     [](GpuOptions& o, std::pair<int, int> heads) {
                                       o.H = heads.first, o.Hk = heads.second;
                                       // Enough rows that their largest error is a typical one.
                                       o.B = o.L * o.S > 300 * 300
                                                 ? 1
                                                 : std::max<std::int64_t>(2, 16 / o.L);
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
      values_of<bool>({false, true}, [](GpuOptions& o, bool total) { o.total_attention = total; }),
      // Size of the scores, the last with the sign of the scale changed.
      values_of<double>(
          {1, 5, 1e-3, -2},
          [](GpuOptions& o, double size) { o.scale = size * default_scale(o.score, o.D); }),
  };
}

/// What general kernels add; sizes are small, the fast kernels' test has the large ones.
std::vector<test::OptionValues> general_options() {
  const auto nothing = [](GpuOptions&) {};
  const auto lengths = [](int L, int S) { return [=](GpuOptions& o) { o.L = L, o.S = S; }; };
  // More sequences than fit a tile, empty ones, ones of several tiles.
  const auto packed = [](std::vector<int> queries, std::vector<int> keys) {
    return [=](GpuOptions& o) {
      o.queries = queries, o.keys = keys;
      o.L = *std::max_element(queries.begin(), queries.end());  // shapes of bias and mask
      o.S = *std::max_element(keys.begin(), keys.end());
    };
  };
  const auto shape = [](Shape test::CaseOptions::*member, bool b, bool h, bool i, bool j) {
    return [=](GpuOptions& o) {
      const std::int64_t batch = o.queries.empty() ? o.B : std::int64_t(o.queries.size());
      o.*member = {b ? batch : 1, h ? o.H : 1, i ? o.L : 1, j ? o.S : 1};
    };
  };
  const auto edits = [](std::initializer_list<std::function<void(GpuOptions&)>> list) {
    return values_of<std::function<void(GpuOptions&)>>(
        list, [](GpuOptions& o, const std::function<void(GpuOptions&)>& edit) { edit(o); });
  };
  const auto bias = [&](bool b, bool h, bool i, bool j) {
    return shape(&GpuOptions::bias, b, h, i, j);
  };
  const auto mask = [&](bool b, bool h, bool i, bool j) {
    return shape(&GpuOptions::mask, b, h, i, j);
  };
  return {
      values_of<DType>({DType::bf16, DType::f16}, [](GpuOptions& o, DType t) { o.storage = t; }),
      edits({lengths(130, 130), lengths(65, 200), lengths(200, 65), lengths(1, 77),
             packed({1, 0, 150, 64, 3, 20}, {5, 7, 150, 129, 0, 30}),
             packed({128, 127, 1, 1, 1}, {64, 65, 1, 2, 200})}),
      values_of<int>({16, 40, 64, 96, 128, 200, 256}, [](GpuOptions& o, int D) { o.D = o.Dv = D; }),
      values_of<int>(
          {0, 24, -3},
          [](GpuOptions& o, int more) { o.Dv = std::min<std::int64_t>(o.Dv + more, 256); }),
      edits({nothing, [](GpuOptions& o) { o.H = 4; }, [](GpuOptions& o) { o.Hk = 1; }}),
      edits({nothing, bias(true, true, true, true), bias(false, true, true, true),
             bias(false, false, true, true), bias(true, false, false, true),
             bias(false, true, false, false), bias(true, true, true, false)}),
      edits({nothing, mask(true, true, true, true), mask(true, false, false, true),
             mask(false, true, true, false)}),
      values_of<bool>({false, true}, [](GpuOptions& o, bool padding) { o.key_padding = padding; }),
      values_of<int>({0, 1, 2}, [](GpuOptions& o, int rank) { o.alibi_rank = rank; }),
      values_of<double>({0, 0.1, 0.7}, [](GpuOptions& o, double p) { o.dropout = p; }),
      values_of<bool>({false, true}, [](GpuOptions& o, bool causal) { o.causal = causal; }),
      values_of<std::array<std::int64_t, 2>>(
          {{-1, -1}, {30, -1}, {0, 20}},
          [](GpuOptions& o, std::array<std::int64_t, 2> window) { o.window = window; }),
      values_of<test::Rows>(
          {test::Rows::heads_first, test::Rows::slice_of_packed, test::Rows::misaligned},
          [](GpuOptions& o, test::Rows rows) { o.rows = rows; }),
      values_of<bool>({false, true}, [](GpuOptions& o, bool total) { o.total_attention = total; }),
      values_of<double>({0, -math::kInfinity<double>},
                        [](GpuOptions& o, double small) {
                          o.parameters = {o.normalizer == "softmax_n" ? (small == 0 ? 0 : 1)
                                          : small == 0                ? 0.5
                                                                      : -std::log(double(o.S))};
                        }),
      values_of<int>({1, 2, 4},
                     [](GpuOptions& o, int groups) {
                       if (o.score == Score::cosine && o.D % groups == 0) o.groups = groups;
                       if (o.score == Score::piecewise) o.threshold = 20 * groups;
                     }),
      values_of<double>({1, -2}, [](GpuOptions& o,
                                    double size) { o.scale = size * default_scale(o.score, o.D); }),
  };
}

std::string describe(const GpuOptions& o) {
  return test::describe(o) + " D=" + std::to_string(o.D) + " " + std::string(name_of(o.storage)) +
         " rows=" + std::to_string(int(o.rows));
}

void expect_correct_over(const GpuOptions& pair, const std::vector<test::OptionValues>& options) {
  std::uint32_t cases = 0;
  for (const std::vector<int>& row : test::covering_array(options, 1)) {
    GpuOptions o = pair;
    o.seed = ++cases;
    for (std::size_t i = 0; i < options.size(); ++i) options[i][std::size_t(row[i])](o);
    SCOPED_TRACE(describe(o));
    GpuCase gpu(o);
    gpu.forward();
    gpu.expect_correct();
    if (testing::Test::HasFatalFailure()) return;
  }
  std::printf("%u cases\n", cases);
}

TEST_P(GpuFlash, KeepsTheTwofoldRule) {
  expect_correct_over(options_, gpu_options());
}

TEST_P(GpuFlash, KeepsTheTwofoldRuleWithEveryOption) {
  expect_correct_over(options_, general_options());
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

// Scores whose order makes maxima grow over many tiles, some by less than what makes a row follow
// (from -60 to 60), some within one tile by more than f16 (hundreds) or bf16 (thousands) holds.
TEST_P(GpuFlash, FollowsMaximaThatGrow) {
  options_.B = 1, options_.H = options_.Hk = 1, options_.L = 130, options_.S = 1024;
  options_.D = options_.Dv = 64, options_.parameters = {0.5};
  for (const DType storage : {DType::bf16, DType::f16})
    for (const double scale : {0.3, 2.0, 8.0, 100.0}) {
      options_.storage = storage;
      options_.scale = scale * (options_.score == Score::cosine ? 8 : 1);
      SCOPED_TRACE(describe(options_));
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
