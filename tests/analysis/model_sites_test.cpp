// The statistics of a real model: the default sites are there, and say what the layers did.
#include <gtest/gtest.h>

#include <cmath>

#include "analysis/activation_statistics.h"
#include "core/buffer.h"
#include "layers/gpt.h"
#include "tests/support/allocations.h"

namespace quietformer {
namespace {

struct TinyGpt {
  explicit TinyGpt(AnalysisConfig analysis, const std::string& normalizer = "softmax_n")
      : statistics(analysis, 2) {
    ModelConfig model;
    model.layers = 3, model.heads = 2, model.dim = 16, model.context = 12, model.vocab = 32;
    AttentionConfig attention;
    attention.normalizer = normalizer;
    gpt.emplace(model, attention, parameters);
    gpt->declare(ctx, arena, {2, 12}, Purpose::training);
    parameters.commit(), arena.commit();
    parameters.initialise(1);
    for (int i = 0; i < 24; ++i) tokens.as<std::int32_t>()[i] = i * 7 % 32;
    ctx.probes = &statistics;
  }
  void step() {
    statistics.begin_step();
    statistics.begin_batch();
    gpt->forward_loss(ctx, {tokens, tokens});
    gpt->backward(ctx);
    statistics.end_step();
    gpt->forward_loss(ctx, {tokens, tokens});  // evaluation: not counted
  }
  const SiteStatistics& site(const std::string& name) const {
    for (const SiteStatistics& s : statistics.latest())
      if (s.site == name) return s;
    throw std::runtime_error("no site " + name);
  }

  Context ctx;
  ParameterList parameters{DType::f32};
  Arena arena{"activations"};
  OwnedTensor tokens{DType::i32, {2, 12}};
  ActivationStatistics statistics;
  std::optional<Gpt> gpt;
};

TEST(ModelSites, DefaultPatternsAllMatch) {
  TinyGpt setup{AnalysisConfig()};
  setup.step();
  EXPECT_TRUE(setup.statistics.unmatched().empty());
  // embedding, and context, sink_mass, row_sum, attention, mlp and block output of each layer.
  EXPECT_EQ(setup.statistics.latest().size(), 1u + 3 * 6);
  for (const SiteStatistics& site : setup.statistics.latest()) {
    EXPECT_EQ(site.all.samples, 2) << site.site;
    EXPECT_TRUE(std::isfinite(site.all.average(&SampleSums::mean))) << site.site;
  }
  EXPECT_EQ(setup.site("blocks.2.output").all.pooled.count, 2 * 12 * 16);
  EXPECT_EQ(setup.site("blocks.1.attention.sink_mass").heads.size(), 2u);
  // With n = 1 and scores near 0, row i sees i + 1 keys and the sink takes about 1 / (i + 2).
  double want = 0;
  for (int i = 0; i < 12; ++i) want += 1.0 / (i + 2) / 12;
  EXPECT_NEAR(mean_mass(setup.statistics.latest(), "sink_mass"), want, 0.01);
  EXPECT_NEAR(mean_mass(setup.statistics.latest(), "row_sum"), 1 - want, 0.01);
}

TEST(ModelSites, NormalisersWithoutASinkHaveRowSumsOnly) {
  AnalysisConfig analysis;
  analysis.per_head = true;
  TinyGpt setup(analysis, "sigmoid");
  setup.step();
  EXPECT_TRUE(std::isnan(mean_mass(setup.statistics.latest(), "sink_mass")));
  EXPECT_TRUE(std::isfinite(mean_mass(setup.statistics.latest(), "row_sum")));
  EXPECT_EQ(setup.site("blocks.0.attention.context").heads.size(), 2u);
  EXPECT_TRUE(setup.site("blocks.0.output").heads.empty());
}

TEST(ModelSites, ALoggedStepAllocatesNothingAfterTheFirst) {
  TinyGpt setup{AnalysisConfig()};
  setup.step();
  const std::int64_t before = test::allocations();
  setup.step();
  EXPECT_EQ(test::allocations(), before);
}

}  // namespace
}  // namespace quietformer
