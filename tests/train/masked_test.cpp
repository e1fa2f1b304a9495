// Encoders in evaluation: what is masked, and that padding counts nowhere.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "analysis/activation_statistics.h"
#include "analysis/final_statistics.h"
#include "core/check.h"
#include "layers/language_model.h"
#include "train/evaluate.h"
#include "train/run_config.h"

namespace quietformer {
namespace {

/// Bytes that repeat themselves.
class Letters final : public TokenSource {
 public:
  explicit Letters(std::int64_t size) : TokenSource("letters", size, 256) {}
  void copy(std::int64_t begin, std::int64_t count, std::int32_t* out) const override {
    for (std::int64_t i = 0; i < count; ++i)
      out[i] = static_cast<std::int32_t>('a' + (begin + i) * (begin + i) % 23);
  }
};

RunConfig tiny(const std::string& changes) {
  return parse_run_config(
      "model: {type: bert, layers: 2, heads: 2, dim: 8, context: 16, vocab: 300, mlp_dim: 12, "
      "norm_structure: post, deepnet: false, " +
          changes + "}\nattention: {causal: false}\nanalysis: {per_head: true}",
      "tiny");
}

struct Outcome {
  Evaluation evaluation;
  std::vector<SiteStatistics> sites;
};

/// What reads a span of `size` tokens in batches of `batch`: use(model, windows, feed, masking).
template <class Use>
void read_span(const RunConfig& config, std::int64_t size, std::int64_t batch, Use&& use) {
  ParameterList parameters(DType::f64);
  const auto model = make_model(config.model, config.attention, parameters);
  Arena arena("test");
  const Shape shape{batch, config.model.context};
  BatchFeed feed(arena, shape, {}, BatchFeed::Padding::possible);
  model->declare({}, arena, {shape[0], shape[1]}, Purpose::inference);
  arena.commit();
  parameters.commit();
  parameters.initialise(3);
  const Letters source(1000);
  const Windows windows(source, {40, size}, config.model.context, batch);
  const auto masking = masking_of(config);
  use(*model, windows, feed, *masking);
}

Outcome evaluate_span(const RunConfig& config, std::int64_t size, std::int64_t batch) {
  Outcome outcome;
  read_span(config, size, batch, [&](auto& model, auto& windows, auto& feed, auto& masking) {
    ActivationStatistics statistics(config.analysis, config.model.heads);
    statistics.begin_step();
    outcome.evaluation = evaluate({}, model, windows, feed, &statistics, &masking);
    statistics.end_step();
    outcome.sites = statistics.latest();
  });
  return outcome;
}

FinalResults observe_span(const RunConfig& config, std::int64_t size, std::int64_t batch) {
  FinalStatistics statistics(config.analysis);
  read_span(config, size, batch, [&](auto& model, auto& windows, auto& feed, auto& masking) {
    observe({}, model, windows, feed, statistics, &masking);
  });
  return statistics.results();
}

TEST(Masked, PaddingCountsInNoStatisticAndNoLoss) {
  constexpr std::int64_t kSize = 16 * 5 + 4;  // six windows of which the last has 3 tokens
  const Outcome alone = evaluate_span(tiny("padding_token: 299"), kSize, 1),
                other = evaluate_span(tiny("padding_token: 7"), kSize, 1),
                padded = evaluate_span(tiny("padding_token: 299"), kSize, 4);
  EXPECT_EQ(alone.evaluation.loss, other.evaluation.loss);
  EXPECT_EQ(alone.evaluation.targets, padded.evaluation.targets);
  EXPECT_NEAR(alone.evaluation.loss, padded.evaluation.loss, 1e-12);
  ASSERT_FALSE(alone.sites.empty());
  ASSERT_EQ(alone.sites.size(), padded.sites.size());
  for (std::size_t i = 0; i < alone.sites.size(); ++i) {
    const SiteStatistics &a = alone.sites[i], &b = padded.sites[i], &c = other.sites[i];
    EXPECT_EQ(a.all.samples, 6) << a.site;
    EXPECT_EQ(b.all.samples, 6) << a.site;
    EXPECT_EQ(a.all.pooled.count, (kSize - 1) * (a.kind == SiteKind::mass ? 2 : 8)) << a.site;
    EXPECT_EQ(b.all.pooled.count, a.all.pooled.count) << a.site;
    EXPECT_NEAR(b.all.pooled.mean, a.all.pooled.mean, 1e-12) << a.site;
    EXPECT_NEAR(b.all.kurtosis, a.all.kurtosis, 1e-9) << a.site;
    EXPECT_EQ(c.all.pooled.mean, a.all.pooled.mean) << a.site;
    EXPECT_EQ(c.all.kurtosis, a.all.kurtosis) << a.site;
  }
}

TEST(Masked, PaddingCountsNowhereInTheFinalStatistics) {
  constexpr std::int64_t kSize = 16 * 5 + 4;
  const FinalResults alone = observe_span(tiny("padding_token: 299"), kSize, 1),
                     padded = observe_span(tiny("padding_token: 299"), kSize, 4);
  EXPECT_EQ(alone.sequences, 6);
  EXPECT_EQ(padded.sequences, 6);
  ASSERT_EQ(alone.attention.size(), 2u);
  ASSERT_EQ(alone.sites.size(), 9u);  // embedding, four of each layer
  for (std::size_t i = 0; i < alone.sites.size(); ++i) {
    const FinalSite &a = alone.sites[i], &b = padded.sites[i];
    const auto& counts = a.histogram.counts;
    EXPECT_EQ(std::accumulate(counts.begin(), counts.end(), a.histogram.below), (kSize - 1) * 8);
    for (std::size_t t = 0; t < 16; ++t)
      EXPECT_NEAR(a.norm_by_token[t], b.norm_by_token[t], 1e-12) << a.site;
    for (std::size_t c = 0; c < 8; ++c)
      EXPECT_NEAR(a.norm_by_channel[c], b.norm_by_channel[c], 1e-12) << a.site;
  }
  for (std::size_t layer = 0; layer < 2; ++layer)
    for (std::size_t h = 0; h < 2; ++h) {
      const AttentionProfile &a = alone.attention[layer], &b = padded.attention[layer];
      EXPECT_NEAR(a.entropy[h], b.entropy[h], 1e-12);
      EXPECT_NEAR(a.first_token_mass[h], b.first_token_mass[h], 1e-12);
      EXPECT_GT(a.sink_mass[h], 0);
      // Weights are nearly equal; 80 rows see 16 keys, 3 see 3.
      EXPECT_NEAR(a.entropy[h], (80 * std::log(16) + 3 * std::log(3)) / 83, 0.05);
    }
}

TEST(Masked, ATextWithoutAnyMaskIsOneLine) {
  RunConfig config = tiny("padding_token: 299");
  config.data.mlm.probability = 1e-9;
  try {
    evaluate_span(config, 3, 1);
    FAIL() << "nothing was thrown";
  } catch (const InputError& error) {
    EXPECT_EQ(std::string(error.what()).find("data.mlm.probability: no token"), 0u);
  }
}

TEST(Masked, TheMaskIs256ForBytesAndTokensNeedOne) {
  EXPECT_TRUE(masking_of(tiny("padding_token: 0")));
  EXPECT_FALSE(masking_of(RunConfig()));
  for (const char* data : {"source: tokens", "mlm: {mask_token: 300}", "mlm: {mask_token: -1}",
                           "mlm: {probability: 0}", "mlm: {probability: 1.5}"})
    EXPECT_THROW(parse_run_config("model: {type: bert, vocab: 300}\nattention: {causal: false}\n"
                                  "data: {" +
                                      std::string(data) + "}",
                                  "x"),
                 InputError)
        << data;
  EXPECT_THROW(parse_run_config("model: {type: bert, vocab: 256}\nattention: {causal: false}", "x"),
               InputError);
  EXPECT_NO_THROW(
      parse_run_config("model: {type: bert, vocab: 300}\nattention: {causal: false}\n"
                       "data: {source: tokens, mlm: {mask_token: 103}}",
                       "x"));
}

}  // namespace
}  // namespace quietformer
