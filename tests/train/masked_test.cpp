// Encoders in evaluation: what is masked, and that padding counts nowhere.
#include <gtest/gtest.h>

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

/// Of a span of `size` tokens, in batches of `batch`.
Outcome evaluate_span(const RunConfig& config, std::int64_t size, std::int64_t batch) {
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
  ActivationStatistics statistics(config.analysis, config.model.heads);
  statistics.begin_step();
  Outcome outcome;
  outcome.evaluation = evaluate({}, *model, windows, feed, &statistics, &*masking);
  statistics.end_step();
  outcome.sites = statistics.latest();
  return outcome;
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
