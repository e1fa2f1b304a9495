#include "analysis/activation_statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "core/buffer.h"
#include "core/check.h"
#include "tests/analysis/statistics_config.h"
#include "tests/support/allocations.h"

namespace quietformer {
namespace {

using test::config_for;

OwnedTensor random_tensor(const Shape& shape, std::uint32_t stream, float offset = 0) {
  OwnedTensor t(DType::f32, shape);
  const RandomKey key = stream_key(2, RandomPurpose::initialisation, stream, 0);
  for (std::int64_t i = 0; i < t.view().count(); ++i) {
    // Sums of uniforms, cubed: bell-shaped with tails.
    const Philox4 bits = philox(key, std::uint32_t(i), 0, 0, 0);
    float sum = -2;
    for (std::uint32_t word : bits.word) sum += uniform24(word);
    t.as<float>()[i] = sum * sum * sum + offset;
  }
  return t;
}

const SiteStatistics& find(const ActivationStatistics& statistics, std::string_view site) {
  for (const SiteStatistics& s : statistics.latest())
    if (s.site == site) return s;
  throw std::runtime_error("no site " + std::string(site));
}

double kurtosis(const SampleSums& sums) {
  return sums.average(&SampleSums::kurtosis);
}

TEST(ActivationStatistics, PerSampleAveragesAndPooled) {
  ActivationStatistics statistics(config_for({"embedding"}), 1);
  OwnedTensor x(DType::f64, {2, 5});
  const double rows[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 0};
  std::memcpy(x.as<double>(), rows, sizeof(rows));
  statistics.begin_step();
  statistics.record(Context(), "embedding", x);
  statistics.end_step();
  const SiteStatistics& site = find(statistics, "embedding");
  EXPECT_EQ(site.all.samples, 2);
  EXPECT_NEAR(site.all.average(&SampleSums::variance), 6, 1e-15);
  EXPECT_NEAR(site.all.average(&SampleSums::mean), 4.5, 1e-15);
  EXPECT_NEAR(site.all.pooled.variance(), 8.25, 1e-15);
  EXPECT_EQ(site.all.pooled.max_abs, 9);
  EXPECT_EQ(site.all.average(&SampleSums::infinity_norm), 7);  // (5 + 9) / 2
  EXPECT_EQ(site.all.pooled.beyond_magnitude, 3);
}

TEST(ActivationStatistics, BatchMeanOfHeavyTailsIsFarFromPooled) {
  // Log-normal rows of very different scale: the ancestors' own test wants a factor of ten.
  OwnedTensor x = random_tensor({100, 1000}, 1);
  for (int i = 0; i < 100000; ++i)
    x.as<float>()[i] = std::exp(0.8f * x.as<float>()[i]) * std::exp(float(i / 1000) / 12);
  ActivationStatistics statistics(config_for({"x"}), 1);
  statistics.begin_step();
  statistics.record(Context(), "x", x);
  statistics.end_step();
  const SampleSums& all = statistics.latest()[0].all;
  EXPECT_LT(kurtosis(all), all.pooled.kurtosis() / 10);
}

TEST(ActivationStatistics, MicroBatchesAndObjectsMergeExactly) {
  const OwnedTensor x = random_tensor({6, 40, 24}, 2, 3);
  ActivationStatistics whole(config_for({"x"}), 1), split(config_for({"x"}), 1),
      other(config_for({"x"}), 1);
  for (ActivationStatistics* s : {&whole, &split, &other}) s->begin_step();
  whole.record(Context(), "x", x);
  for (const auto& [begin, size] : {std::pair{0, 1}, {1, 3}}) {
    split.begin_batch();
    split.record(Context(), "x", x.view().slice(0, begin, size));
  }
  other.record(Context(), "x", x.view().slice(0, 4, 2));
  split.merge(other);
  whole.end_step(), split.end_step();
  const SampleSums &a = whole.latest()[0].all, &b = split.latest()[0].all;
  EXPECT_EQ(b.samples, 6);
  for (auto sum :
       {&SampleSums::kurtosis, &SampleSums::skewness, &SampleSums::variance, &SampleSums::mean})
    EXPECT_NEAR(a.average(sum), b.average(sum), 1e-12 * std::abs(a.average(sum)));
  EXPECT_EQ(a.pooled.count, b.pooled.count);
  EXPECT_NEAR(a.pooled.mean, b.pooled.mean, 1e-13);
  EXPECT_NEAR(a.pooled.kurtosis(), b.pooled.kurtosis(), 1e-12 * a.pooled.kurtosis());
  EXPECT_EQ(a.pooled.max_abs, b.pooled.max_abs);
  EXPECT_NEAR(a.infinity_norm, b.infinity_norm, 1e-12 * a.infinity_norm);
}

TEST(ActivationStatistics, MergeBringsSitesTheOtherSawFirst) {
  ActivationStatistics one(config_for({"*"}), 1), two(config_for({"*"}), 1);
  const OwnedTensor x = random_tensor({2, 8}, 3);
  one.begin_step(), two.begin_step();
  one.record(Context(), "a", x);
  two.record(Context(), "b", x);
  one.merge(two);
  one.end_step();
  EXPECT_EQ(find(one, "b").all.samples, 2);
  EXPECT_EQ(find(one, "a").all.pooled.mean, find(one, "b").all.pooled.mean);
}

TEST(ActivationStatistics, CountsOncePerMicroBatchAndOnlyWithinAStep) {
  ActivationStatistics statistics(config_for({"x"}), 1);
  const OwnedTensor x = random_tensor({3, 10}, 4);
  EXPECT_FALSE(statistics.wants("x"));
  statistics.record(Context(), "x", x);  // evaluation before training
  EXPECT_TRUE(statistics.latest().empty());
  statistics.begin_step();
  EXPECT_TRUE(statistics.wants("x"));
  statistics.begin_batch();
  statistics.record(Context(), "x", x);
  statistics.record(Context(), "x", x);  // recomputed for the backward pass
  statistics.begin_batch();
  statistics.record(Context(), "x", x);
  statistics.end_step();
  EXPECT_FALSE(statistics.wants("x"));
  statistics.record(Context(), "x", x);
  EXPECT_EQ(statistics.latest()[0].all.samples, 6);
  // The next step starts from nothing, and a site that stays away shows as such.
  statistics.begin_step();
  statistics.end_step();
  EXPECT_EQ(statistics.latest()[0].all.samples, 0);
  EXPECT_TRUE(std::isnan(kurtosis(statistics.latest()[0].all)));
}

TEST(ActivationStatistics, SelectsByPattern) {
  ActivationStatistics statistics(config_for({"embedding", "blocks.*.output", "head"}), 1);
  statistics.begin_step();
  const OwnedTensor x = random_tensor({2, 4, 8}, 5);
  for (const char* name :
       {"embedding", "blocks.0.output", "blocks.0.mlp.output", "blocks.12.output"})
    statistics.record(Context(), name, x);
  EXPECT_FALSE(statistics.wants("blocks.0.mlp.output"));
  EXPECT_FALSE(statistics.wants("blocks.0.attention.sink_mass"));
  statistics.end_step();
  ASSERT_EQ(statistics.latest().size(), 3u);
  EXPECT_EQ(statistics.latest()[2].site, "blocks.12.output");
  EXPECT_EQ(statistics.unmatched(), std::vector<std::string>{"head"});
}

TEST(ActivationStatistics, OutliersAgainstThePreviousLoggedStep) {
  ActivationStatistics statistics(config_for({"x"}), 1);
  OwnedTensor x(DType::f32, {2, 1000});
  for (int i = 0; i < 2000; ++i) x.as<float>()[i] = i % 2 ? 4.0f : 2.0f;  // mean 3, sigma 1
  const auto step = [&] {
    statistics.begin_step();
    statistics.record(Context(), "x", x);
    statistics.end_step();
  };
  step();
  EXPECT_FALSE(statistics.latest()[0].has_reference);
  EXPECT_EQ(statistics.latest()[0].all.pooled.outside, 0);
  x.as<float>()[0] = 9.01f, x.as<float>()[1999] = -3.1f, x.as<float>()[7] = 8.9f;
  x.as<float>()[8] = -2.9f;
  const std::vector<NamedValue> state = statistics.state();
  statistics.begin_step();  // a step without this site changes nothing
  statistics.end_step();
  step();
  EXPECT_TRUE(statistics.latest()[0].has_reference);
  EXPECT_EQ(statistics.latest()[0].all.pooled.outside, 2);
  EXPECT_EQ(statistics.latest()[0].all.pooled.beyond_magnitude, 2);

  // A resumed run counts alike, also when a checkpoint comes before its first logged step.
  ActivationStatistics between(config_for({"x"}), 1), resumed(config_for({"x"}), 1);
  between.restore(state);
  resumed.restore(between.state());
  resumed.begin_step();
  resumed.record(Context(), "x", x);
  resumed.end_step();
  EXPECT_TRUE(resumed.latest()[0].has_reference);
  EXPECT_EQ(resumed.latest()[0].all.pooled.outside, 2);
  ASSERT_EQ(state.size(), 2u);
  EXPECT_EQ(state[0].name, "x/mean");
  EXPECT_EQ(state[1].name, "x/sigma");
  EXPECT_EQ(state[1].value, 1);

  // A step that went to NaN leaves no reference behind.
  x.as<float>()[3] = NAN;
  step();
  EXPECT_TRUE(std::isnan(statistics.latest()[0].all.pooled.variance()));
  EXPECT_TRUE(statistics.state().empty());
  step();
  EXPECT_FALSE(statistics.latest()[0].has_reference);
  const std::vector<NamedValue> foreign{{"x", 1}};
  EXPECT_THROW(resumed.restore(foreign), InputError);
}

TEST(ActivationStatistics, PaddedPositionsDoNotCount) {
  const std::int64_t T = 5000, C = 16;  // several tasks per sample
  const OwnedTensor x = random_tensor({3, T, C}, 6);
  OwnedTensor padded = random_tensor({3, T, C}, 6);
  OwnedTensor validity(DType::u8, {3, T});
  std::vector<Moments> samples;
  for (std::int64_t b = 0; b < 3; ++b) {
    const std::int64_t length = b == 2 ? 0 : T - 1900 * b;  // the last sample is all padding
    for (std::int64_t t = 0; t < T; ++t) {
      validity.as<std::uint8_t>()[b * T + t] = t < length ? 3 : 0;
      for (std::int64_t c = 0; c < C && t >= length; ++c)
        padded.as<float>()[(b * T + t) * C + c] = NAN;
    }
    float* sample = x.as<float>() + b * T * C;
    samples.push_back(moments_of(Context(), Tensor(sample, DType::f32, {length * C}), {}));
  }
  for (bool per_head : {false, true}) {
    ActivationStatistics statistics(config_for({"**"}, per_head), 4);
    statistics.begin_step();
    statistics.begin_batch(validity);
    statistics.record(Context(), "attention.context", padded);
    statistics.end_step();
    const SampleSums& all = statistics.latest()[0].all;
    EXPECT_EQ(all.samples, 2);
    EXPECT_EQ(all.pooled.count, (2 * T - 1900) * C);
    EXPECT_NEAR(kurtosis(all), (samples[0].kurtosis() + samples[1].kurtosis()) / 2, 1e-11);
    EXPECT_EQ(all.infinity_norm, samples[0].max_abs + samples[1].max_abs);
    EXPECT_NEAR(all.average(&SampleSums::mean), (samples[0].mean + samples[1].mean) / 2, 1e-14);
  }
}

TEST(ActivationStatistics, PerHeadCutsTheContext) {
  const std::int64_t B = 3, T = 70, H = 4, D = 8, C = H * D;
  OwnedTensor x = random_tensor({B, T, C}, 7);
  for (std::int64_t r = 0; r < B * T; ++r)
    for (std::int64_t d = 0; d < D; ++d) x.as<float>()[r * C + 2 * D + d] += 5;  // head 2
  ActivationStatistics cut(config_for({"**.context"}, true), H),
      whole(config_for({"**.context"}), H);
  for (ActivationStatistics* s : {&cut, &whole}) {
    for (int step = 0; step < 2; ++step) {  // the second is not to see the first
      s->begin_step();
      s->record(Context(), "blocks.0.attention.context", x);
      s->end_step();
    }
  }
  const SiteStatistics& site = cut.latest()[0];
  ASSERT_EQ(site.heads.size(), std::size_t(H));
  EXPECT_TRUE(whole.latest()[0].heads.empty());
  EXPECT_NEAR(kurtosis(site.all), kurtosis(whole.latest()[0].all), 1e-12);
  for (std::int64_t h = 0; h < H; ++h) {
    double want = 0;
    for (std::int64_t b = 0; b < B; ++b) {
      std::vector<float> values;
      for (std::int64_t t = 0; t < T; ++t)
        for (std::int64_t d = 0; d < D; ++d)
          values.push_back(x.as<float>()[(b * T + t) * C + h * D + d]);
      want += moments_of(Context(), Tensor(values.data(), DType::f32, {T * D}), {}).kurtosis() / 3;
    }
    EXPECT_EQ(site.heads[std::size_t(h)].samples, B);
    EXPECT_NEAR(kurtosis(site.heads[std::size_t(h)]), want, 1e-12);
    EXPECT_NEAR(site.heads[std::size_t(h)].average(&SampleSums::mean), h == 2 ? 5 : 0, 0.1);
  }
}

TEST(ActivationStatistics, MassesGoAlongWithTheContextOfTheirLayer) {
  ActivationStatistics statistics(config_for({"blocks.*.attention.context"}), 2);
  OwnedTensor sink(DType::f32, {2, 2, 4}), validity(DType::u8, {2, 4});
  for (int i = 0; i < 16; ++i) sink.as<float>()[i] = float(i);
  for (int i = 0; i < 8; ++i) validity.as<std::uint8_t>()[i] = i != 3;  // sample 0, position 3
  statistics.begin_step();
  EXPECT_TRUE(statistics.wants("blocks.1.attention.sink_mass"));
  EXPECT_TRUE(statistics.wants("blocks.1.attention.row_sum"));
  EXPECT_FALSE(statistics.wants("other.1.attention.sink_mass"));
  EXPECT_FALSE(statistics.wants("blocks.1.attention.lse"));
  statistics.begin_batch(validity);
  statistics.record(Context(), "blocks.0.attention.sink_mass", sink);
  statistics.begin_batch();
  statistics.record(Context(), "blocks.1.attention.sink_mass", sink);
  statistics.end_step();
  const SiteStatistics& masked = statistics.latest()[0];
  EXPECT_EQ(masked.kind, SiteKind::mass);
  ASSERT_EQ(masked.heads.size(), 2u);
  // Sample 0: heads (0 1 2), (4 5 6); sample 1: heads (8..11), (12..15).
  EXPECT_NEAR(masked.heads[0].average(&SampleSums::mean), (1 + 9.5) / 2, 1e-15);
  EXPECT_NEAR(masked.heads[1].average(&SampleSums::mean), (5 + 13.5) / 2, 1e-15);
  EXPECT_NEAR(masked.all.average(&SampleSums::mean), (3 + 11.5) / 2, 1e-15);
  EXPECT_NEAR(mean_mass(statistics.latest(), "sink_mass"), (7.25 + 7.5) / 2, 1e-15);
  EXPECT_TRUE(std::isnan(mean_mass(statistics.latest(), "row_sum")));
}

TEST(ActivationStatistics, BitwiseIndependentOfThreads) {
  const OwnedTensor x = random_tensor({5, 300, 96}, 8);
  std::vector<SampleSums> results;
  for (int threads : {1, 2, 5}) {
    Context ctx;
    ctx.threads = threads;
    ActivationStatistics statistics(config_for({"**"}, true), 3);
    statistics.begin_step();
    statistics.record(ctx, "attention.context", x);
    statistics.end_step();
    results.push_back(statistics.latest()[0].all);
    results.push_back(statistics.latest()[0].heads[1]);
  }
  for (std::size_t i = 2; i < results.size(); ++i)
    EXPECT_EQ(0, std::memcmp(&results[i], &results[i % 2], sizeof(SampleSums)));
}

TEST(ActivationStatistics, AllocatesNothingAfterTheFirstStep) {
  const OwnedTensor x = random_tensor({4, 64, 32}, 9), mass = random_tensor({4, 2, 64}, 10);
  ActivationStatistics statistics(config_for({"**.context", "blocks.*.output"}, true), 2);
  const auto step = [&] {
    statistics.begin_step();
    for (int micro = 0; micro < 2; ++micro) {
      statistics.begin_batch();
      for (const char* name : {"blocks.0.attention.context", "blocks.1.attention.context"})
        statistics.record(Context(), name, x);
      statistics.record(Context(), "blocks.0.output", x);
      statistics.record(Context(), "blocks.0.attention.sink_mass", mass);
      statistics.wants("some.where.else.attention.sink_mass");
    }
    statistics.end_step();
  };
  step();
  const std::int64_t before = test::allocations();
  step();
  step();
  EXPECT_EQ(test::allocations(), before);
}

TEST(AnalysisConfig, RefusesWhatMakesNoSense) {
  AnalysisConfig config;
  EXPECT_NO_THROW(config.validate());
  config.every = -1;
  EXPECT_THROW(config.validate(), InputError);
  config.every = 0;
  config.final_sequences = -1;
  EXPECT_THROW(config.validate(), InputError);
  config.final_sequences = 0;
  for (const char* bad : {"", "blocks/0", "a b", "\x1b[0m"}) {
    config.sites = {bad};
    EXPECT_THROW(config.validate(), InputError) << bad;
  }
}

}  // namespace
}  // namespace quietformer
