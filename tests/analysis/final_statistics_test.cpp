// What a run reports at its end: histograms, norms by token and channel, outlier dimensions, and
// where heads look. Closed forms.
#include "analysis/final_statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "core/check.h"
#include "tests/analysis/statistics_config.h"
#include "tests/support/tensors.h"

namespace quietformer {
namespace {

using namespace test;

TEST(MagnitudeHistogram, HalfOctavesAndBothEnds) {
  using H = MagnitudeHistogram;
  const auto bin_of = [](double x) {
    H h;
    h.add(x);
    if (h.below == 1) return -1;
    if (h.above == 1) return H::kBins;
    return static_cast<int>(std::find(h.counts.begin(), h.counts.end(), 1) - h.counts.begin());
  };
  const double root = std::sqrt(2.0);
  EXPECT_EQ(bin_of(0), -1);
  EXPECT_EQ(bin_of(std::nextafter(0x1p-16, 0)), -1);
  EXPECT_EQ(bin_of(0x1p-16), 0);
  EXPECT_EQ(bin_of(1), 32);
  EXPECT_EQ(bin_of(std::nextafter(root, 0)), 32);
  EXPECT_EQ(bin_of(root), 33);
  EXPECT_EQ(bin_of(2), 34);
  EXPECT_EQ(bin_of(6), 37);
  EXPECT_EQ(bin_of(std::nextafter(0x1p16, 0)), 63);
  EXPECT_EQ(bin_of(0x1p16), H::kBins);
  EXPECT_EQ(bin_of(INFINITY), H::kBins);
  EXPECT_EQ(bin_of(NAN), H::kBins);
  const OwnedTensor x = normal(DType::f64, {5000}, 1, 6);
  for (std::int64_t i = 0; i < 5000; ++i) {
    const double magnitude = std::exp(get(x, i));
    const int want = static_cast<int>(std::floor(2 * (std::log2(magnitude) + 16)));
    EXPECT_EQ(bin_of(magnitude), std::clamp(want, -1, H::kBins)) << magnitude;
  }
}

/// Sites of two batches, T = 32, C = 10, of which the last 2 positions of batch 1 are padding.
class Planted : public testing::Test {
 protected:
  static constexpr std::int64_t kTokens = 32, kChannels = 10;

  /// value(sequence, token, channel) of a site of two batches.
  template <class F>
  void add(FinalStatistics& statistics, const std::string& site, F&& value) {
    for (std::int64_t batch = 0; batch < 2; ++batch) {
      OwnedTensor x(DType::f32, {1, kTokens, kChannels}), valid(DType::u8, {1, kTokens});
      for (std::int64_t t = 0; t < kTokens; ++t) {
        set(valid, t, batch == 0 || t < kTokens - 2);
        for (std::int64_t c = 0; c < kChannels; ++c)
          set(x, t * kChannels + c, get(valid, t) != 0 ? value(batch, t, c) : 1e4);
      }
      statistics.begin_batch(batch == 0 ? Tensor() : valid.view());
      statistics.record(ctx_, site, x);
    }
  }
  Context ctx_;
};

TEST_F(Planted, OutlierDimensionsAreThoseOfEnoughLayersAndPositions) {
  FinalStatistics statistics(config_for({"embedding"}));
  for (int layer = 0; layer < 8; ++layer)
    add(statistics, "blocks." + std::to_string(layer) + ".output",
        [layer](std::int64_t, std::int64_t t, std::int64_t c) -> double {
          if (c == 3 && layer < 2) return -6.5;           // 25 % of layers, 25 % of positions
          if (c == 5 && layer == 4) return 60;            // 12.5 % of layers
          if (c == 7 && t == 9) return 7;                 // all layers, 3 % of positions
          if (c == 8 && layer > 5 && t < 8) return 6.25;  // 25 %, 6.25 or 6.7 %
          if (c == 9) return 6;                           // not beyond
          return 0.5;
        });
  add(statistics, "blocks.0.mlp.output", [](auto...) { return 100; });  // no hidden state
  const FinalResults results = statistics.results();
  EXPECT_EQ(results.sequences, 2);
  EXPECT_TRUE(results.sites.empty());  // wanted for the outliers alone
  const OutlierDimensions& found = results.outliers;
  EXPECT_EQ(found.layers, 8);
  EXPECT_EQ(found.channels, (std::vector<std::int64_t>{3, 8}));
  EXPECT_EQ(found.channel_layers, (std::vector<std::int64_t>{0, 0, 0, 2, 0, 1, 0, 8, 2, 0}));
  EXPECT_DOUBLE_EQ(found.channel_positions[3], 0.25);
  EXPECT_DOUBLE_EQ(found.channel_positions[7], 2.0 / 62);
  EXPECT_DOUBLE_EQ(found.channel_positions[8], 0.25 * 16 / 62);
}

TEST_F(Planted, NormsByTokenAndChannelAreMeansOfMaximaOverRealPositions) {
  FinalStatistics statistics(config_for({"blocks.*.mlp.output", "**.sink_mass"}));
  EXPECT_TRUE(statistics.wants("blocks.0.mlp.output"));
  EXPECT_TRUE(statistics.wants("blocks.0.output"));
  EXPECT_FALSE(statistics.wants("blocks.0.attention.sink_mass"));
  EXPECT_FALSE(statistics.wants("embedding"));
  const auto value = [](std::int64_t b, std::int64_t t, std::int64_t c) {
    return (c % 2 == 0 ? 1.0 : -1.0) * double((b + 1) * (t + 1)) * (c == 4 ? 2 : 1);
  };
  add(statistics, "blocks.0.mlp.output", value);
  const FinalResults results = statistics.results();
  ASSERT_EQ(results.sites.size(), 1u);
  const FinalSite& site = results.sites[0];
  EXPECT_EQ(site.site, "blocks.0.mlp.output");
  ASSERT_EQ(site.norm_by_token.size(), std::size_t(kTokens));
  for (std::int64_t t = 0; t < kTokens; ++t)
    EXPECT_EQ(site.norm_by_token[std::size_t(t)],
              t < kTokens - 2 ? 2 * 1.5 * double(t + 1) : 2.0 * double(t + 1));
  for (std::int64_t c = 0; c < kChannels; ++c)
    EXPECT_EQ(site.norm_by_channel[std::size_t(c)], (c == 4 ? 2 : 1) * (32 + 60) / 2.0);
  const auto& counts = site.histogram.counts;
  EXPECT_EQ(std::accumulate(counts.begin(), counts.end(), std::int64_t{0}), 62 * kChannels);
  EXPECT_EQ(site.histogram.below + site.histogram.above, 0);
  EXPECT_EQ(counts[32], kChannels - 1);  // 1: token 0 of batch 0, but for channel 4
}

TEST_F(Planted, NanStays) {
  FinalStatistics statistics(config_for({"x"}));
  add(statistics, "x", [](std::int64_t b, std::int64_t t, std::int64_t c) {
    return b == 1 && t == 4 && c == 2 ? double(NAN) : 1;
  });
  const FinalSite site = statistics.results().sites[0];
  EXPECT_TRUE(std::isnan(site.norm_by_token[4]) && std::isnan(site.norm_by_channel[2]));
  EXPECT_EQ(site.norm_by_token[5], 1);
  EXPECT_EQ(site.norm_by_channel[3], 1);
  EXPECT_EQ(site.histogram.above, 1);
}

// --- attention ---

/// A problem that owns its tensors: B 2, H 4, Hk 2, T 12, D 8.
struct Heads {
  static constexpr std::int64_t kBatch = 2, kHeads = 4, kTokens = 12, kDim = 8;
  explicit Heads(double size) {
    fill_normal(q, 1, size), fill_normal(k, 2, size), fill_normal(v, 3);
    fill_normal(q2, 4, size), fill_normal(k2, 5, size);
    problem.q = q, problem.k = k, problem.v = v;
    problem.scale = default_scale(Score::dot, kDim);
    problem.causal = true;
  }
  AttentionProfile profile(std::int64_t weights = 1 << 20, const Tensor& validity = {}) const {
    AttentionProfiler profiler(weights);
    profiler.add(Context(), "blocks.0.attention", problem, validity);
    return profiler.profiles().at(0);
  }
  const Shape queries{kBatch, kHeads, kTokens, kDim}, keys{kBatch, 2, kTokens, kDim};
  OwnedTensor q{DType::f64, queries}, k{DType::f64, keys}, v{DType::f64, keys};
  OwnedTensor q2{DType::f64, queries}, k2{DType::f64, keys};
  AttentionProblem problem;
};

/// Mean over rows that see 1, 2, ..., T keys.
template <class F>
double mean_over_rows(F&& f) {
  double sum = 0;
  for (std::int64_t visible = 1; visible <= Heads::kTokens; ++visible) sum += f(double(visible));
  return sum / double(Heads::kTokens);
}

TEST(AttentionProfiler, UniformAttentionHasTheEntropyOfItsKeys) {
  Heads heads(0);  // all scores are 0
  const OwnedTensor n = from_values(DType::f64, {4}, {0, 1, 2.5, 10});
  heads.problem.head_parameters[0] = n;
  const AttentionProfile profile = heads.profile();
  EXPECT_EQ(profile.layer, "blocks.0.attention");
  ASSERT_EQ(profile.entropy.size(), 4u);
  for (std::size_t h = 0; h < 4; ++h) {
    const double sink = get(n, std::int64_t(h));
    EXPECT_NEAR(profile.entropy[h], mean_over_rows([](double k) { return std::log(k); }), 1e-12);
    EXPECT_NEAR(profile.first_token_mass[h],
                mean_over_rows([&](double k) { return 1 / (sink + k); }), 1e-12);
    EXPECT_NEAR(profile.sink_mass[h], mean_over_rows([&](double k) { return sink / (sink + k); }),
                1e-12);
    EXPECT_NEAR(profile.row_sum[h], 1 - profile.sink_mass[h], 1e-12);
  }
}

TEST(AttentionProfiler, MatchesTheDefinitionOfSoftmaxN) {
  Heads heads(2);
  const OwnedTensor n = from_values(DType::f64, {4}, {0, 1, 0.3, 4});
  heads.problem.head_parameters[0] = n;
  const AttentionProfile profile = heads.profile();
  for (std::int64_t h = 0; h < 4; ++h) {
    double first = 0, sink = 0, entropy = 0;
    for (std::int64_t b = 0; b < Heads::kBatch; ++b)
      for (std::int64_t i = 0; i < Heads::kTokens; ++i) {
        std::vector<double> exps;
        for (std::int64_t j = 0; j <= i; ++j) {
          double score = 0;
          for (std::int64_t d = 0; d < Heads::kDim; ++d)
            score += get(heads.q, ((b * 4 + h) * Heads::kTokens + i) * Heads::kDim + d) *
                     get(heads.k, ((b * 2 + h / 2) * Heads::kTokens + j) * Heads::kDim + d);
          exps.push_back(std::exp(score * heads.problem.scale));
        }
        const double sum = std::accumulate(exps.begin(), exps.end(), 0.0);
        first += exps[0] / (get(n, h) + sum);
        sink += get(n, h) / (get(n, h) + sum);
        for (const double e : exps) entropy -= e / sum * std::log(e / sum);
      }
    const double rows = double(Heads::kBatch * Heads::kTokens);
    const auto at = static_cast<std::size_t>(h);
    EXPECT_NEAR(profile.first_token_mass[at], first / rows, 1e-12);
    EXPECT_NEAR(profile.sink_mass[at], sink / rows, 1e-12);
    EXPECT_NEAR(profile.entropy[at], entropy / rows, 1e-12);
  }
}

TEST(AttentionProfiler, SigmoidHasNoSinkAndTheEntropyOfItsShares) {
  Heads heads(0);
  const OwnedTensor bias = from_values(DType::f64, {4}, {0, -1, -3, -20});
  heads.problem.normalizer = "sigmoid";
  heads.problem.head_parameters[0] = bias;
  const AttentionProfile profile = heads.profile();
  EXPECT_TRUE(profile.sink_mass.empty());
  for (std::size_t h = 0; h < 4; ++h) {
    const double weight = 1 / (1 + std::exp(-get(bias, std::int64_t(h))));
    EXPECT_NEAR(profile.first_token_mass[h], weight, 1e-12);
    EXPECT_NEAR(profile.row_sum[h], mean_over_rows([&](double k) { return weight * k; }), 1e-12);
    EXPECT_NEAR(profile.entropy[h], mean_over_rows([](double k) { return std::log(k); }), 1e-12);
  }
}

TEST(AttentionProfiler, PaddingIsNeitherQueryNorKeyAndRowsWithoutWeightHaveNoEntropy) {
  Heads heads(0);
  OwnedTensor valid(DType::u8, {2, Heads::kTokens});
  for (std::int64_t i = 0; i < 2 * Heads::kTokens; ++i) set(valid, i, i % Heads::kTokens < 5);
  heads.problem.causal = false;
  heads.problem.key_padding = valid;
  AttentionProfile profile = heads.profile(1 << 20, valid);
  for (std::size_t h = 0; h < 4; ++h) {
    EXPECT_NEAR(profile.entropy[h], std::log(5), 1e-12);
    EXPECT_NEAR(profile.first_token_mass[h], 0.2, 1e-12);
  }
  fill(valid, 0);
  profile = heads.profile();  // all rows count, and see nothing
  EXPECT_EQ(profile.row_sum[0], 0);
  EXPECT_TRUE(std::isnan(profile.entropy[0]));
}

// A part of a problem is where it was in the whole.
TEST(AttentionProfiler, PartsAddUpToTheWhole) {
  const OwnedTensor slopes = from_values(DType::f64, {4}, {0.5, 0.25, 0.1, 0.7});
  const OwnedTensor n = from_values(DType::f64, {4}, {0, 1, 0.3, 4});
  OwnedTensor valid(DType::u8, {2, Heads::kTokens});
  for (std::int64_t i = 0; i < 2 * Heads::kTokens; ++i) set(valid, i, i % 7 != 3);
  for (const bool causal : {true, false})
    for (const Score score : {Score::dot, Score::cosine, Score::piecewise}) {
      Heads heads(1.5);
      heads.problem.score = score;
      heads.problem.causal = causal;
      heads.problem.window = {7, causal ? 0 : 4};
      heads.problem.alibi_slopes = slopes;
      heads.problem.head_parameters[0] = n;
      heads.problem.key_padding = valid;
      if (score == Score::piecewise)
        heads.problem.q2 = heads.q2, heads.problem.k2 = heads.k2, heads.problem.threshold = 3;
      const AttentionProfile whole = heads.profile(1 << 20, valid);
      for (const std::int64_t weights : {1, 100, 300, 700}) {
        const AttentionProfile parts = heads.profile(weights, valid);
        for (std::size_t h = 0; h < 4; ++h) {
          EXPECT_NEAR(parts.first_token_mass[h], whole.first_token_mass[h], 1e-13);
          EXPECT_NEAR(parts.row_sum[h], whole.row_sum[h], 1e-13);
          EXPECT_NEAR(parts.sink_mass[h], whole.sink_mass[h], 1e-13);
          EXPECT_NEAR(parts.entropy[h], whole.entropy[h], 1e-12);
        }
      }
    }
}

}  // namespace
}  // namespace quietformer
