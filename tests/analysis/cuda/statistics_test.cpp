// Activation statistics taken on a GPU against those of the CPU. Skips with the reason where there
// is no GPU.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>

#include "analysis/activation_statistics.h"
#include "analysis/final_statistics.h"
#include "tests/support/tensors.h"

namespace quietformer {
namespace {

using namespace test;

constexpr Device kGpu{DeviceType::cuda, 0};
constexpr const char* kSite = "blocks.0.attention.context";
constexpr const char* kMass = "blocks.0.attention.sink_mass";

class GpuStatistics : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string reason = cuda::unavailable(); !reason.empty()) GTEST_SKIP() << reason;
    gpu_.device = kGpu;
  }
  Context cpu_, gpu_;
};

AnalysisConfig config_for(bool per_head) {
  AnalysisConfig config;
  config.sites = {"**"};
  config.per_head = per_head;
  return config;
}

/// `values` (f64) as a GPU stores them, and what is then there, in the type the CPU computes in.
struct Stored {
  OwnedTensor gpu, cpu;
};
Stored store(const Tensor& values, DType dtype) {
  Stored stored{{}, OwnedTensor(dtype == DType::f64 ? DType::f64 : DType::f32, values.shape)};
  OwnedTensor host(dtype, values.shape);
  for (std::int64_t i = 0; i < values.count(); ++i) {
    if (dtype == DType::f16) {
      // Of f16 only numbers with few bits: sign, exponent and 10 bits of fraction cut off.
      const auto bits = std::bit_cast<std::uint32_t>(float(get(values, i)));
      const int exponent = std::max(1, std::min(30, int(bits >> 23 & 0xff) - 112));
      static_cast<std::uint16_t*>(host.view().data)[i] = std::uint16_t(
          (bits >> 16 & 0x8000) | std::uint32_t(exponent) << 10 | (bits >> 13 & 0x3ff));
      set(stored.cpu, i, f16_to_float(static_cast<std::uint16_t*>(host.view().data)[i]));
    } else {
      set(host, i, get(values, i));
      set(stored.cpu, i, get(host, i));
    }
  }
  stored.gpu = copy_to(kGpu, host);
  return stored;
}

/// Relative to the larger one; equal infinities and two NaNs agree.
void expect_near(double got, double want, double tolerance, const std::string& what) {
  if ((std::isnan(got) && std::isnan(want)) || got == want) return;
  EXPECT_LE(std::abs(got - want), tolerance * std::max(std::abs(got), std::abs(want))) << what;
}

void expect_agree(const SampleSums& got, const SampleSums& want, const std::string& what) {
  constexpr double kTolerance = 1e-6;
  EXPECT_EQ(got.samples, want.samples) << what;
  EXPECT_EQ(got.pooled.count, want.pooled.count) << what;
  EXPECT_EQ(got.pooled.beyond_magnitude, want.pooled.beyond_magnitude) << what;
  EXPECT_EQ(got.pooled.outside, want.pooled.outside) << what;
  expect_near(got.pooled.max_abs, want.pooled.max_abs, 0, what + " max_abs");
  expect_near(got.infinity_norm, want.infinity_norm, 1e-12, what + " infinity norm");
  const double sigma = std::sqrt(want.pooled.variance());
  // Means and skewnesses near 0 are differences; sigma and 1 are what they are small against.
  const auto shifted = [&](double got_value, double want_value, double by, const char* name) {
    expect_near(got_value + by, want_value + by, kTolerance, what + " " + name);
  };
  const auto n = static_cast<double>(want.samples);
  shifted(got.pooled.mean, want.pooled.mean, std::copysign(sigma, want.pooled.mean), "mean");
  shifted(got.mean / n, want.mean / n, std::copysign(sigma, want.mean), "average mean");
  expect_near(got.pooled.variance(), want.pooled.variance(), kTolerance, what + " variance");
  expect_near(got.variance, want.variance, kTolerance, what + " average variance");
  const auto sign = [](double x) { return std::copysign(1.0, x); };
  shifted(got.pooled.skewness(), want.pooled.skewness(), sign(want.pooled.skewness()), "skewness");
  shifted(got.skewness / n, want.skewness / n, sign(want.skewness), "average skewness");
  shifted(got.pooled.kurtosis(), want.pooled.kurtosis(), 3, "kurtosis");
  shifted(got.kurtosis / n, want.kurtosis / n, 3, "average kurtosis");
}

void expect_agree(const ActivationStatistics& got, const ActivationStatistics& want,
                  const std::string& what) {
  ASSERT_EQ(got.latest().size(), want.latest().size()) << what;
  for (std::size_t i = 0; i < want.latest().size(); ++i) {
    const SiteStatistics &g = got.latest()[i], &w = want.latest()[i];
    EXPECT_EQ(g.site, w.site);
    EXPECT_EQ(g.has_reference, w.has_reference);
    expect_agree(g.all, w.all, what + " " + g.site);
    ASSERT_EQ(g.heads.size(), w.heads.size());
    for (std::size_t h = 0; h < w.heads.size(); ++h)
      expect_agree(g.heads[h], w.heads[h], what + " " + g.site + " head " + std::to_string(h));
  }
}

std::string describe(DType dtype, const Shape& shape) {
  return std::string(name_of(dtype)) + " " + to_string(shape);
}

constexpr DType kTypes[] = {DType::f64, DType::f32, DType::bf16, DType::f16};

TEST_F(GpuStatistics, AgreeWithTheCpuForAllShapes) {
  const Shape shapes[] = {{3, 128, 96}, {2, 5, 12},   {1, 1, 4},  {2, 70, 132},
                          {40, 33, 20}, {2, 700, 64}, {70, 4, 8}, {3, 7, 36}};
  std::uint32_t seed = 0;
  for (const DType dtype : kTypes)
    for (const Shape& shape : shapes)
      for (const bool per_head : {false, true})
        for (const bool masked : {false, true}) {
          const OwnedTensor values = normal(DType::f64, shape, ++seed, 2, 0.5);
          const Stored x = store(values, dtype);
          OwnedTensor mask(DType::u8, {shape[0], shape[1]});
          for (std::int64_t i = 0; i < mask.view().count(); ++i) set(mask, i, i * 7 % 5 != 1);
          const OwnedTensor gpu_mask = copy_to(kGpu, mask);
          ActivationStatistics want(config_for(per_head), 4), got(config_for(per_head), 4);
          for (int step = 0; step < 2; ++step) {  // the second counts outliers against the first
            want.begin_step(), got.begin_step();
            want.begin_batch(masked ? mask.view() : Tensor());
            got.begin_batch(masked ? gpu_mask.view() : Tensor());
            want.record(cpu_, kSite, x.cpu), got.record(gpu_, kSite, x.gpu);
            want.end_step(), got.end_step();
            expect_agree(got, want, describe(dtype, shape) + (masked ? " masked" : ""));
          }
        }
}

// What breaks sums of powers: offsets, heavy tails, extreme scales, constants, NaN.
TEST_F(GpuStatistics, AgreeWithTheCpuForAwkwardNumbers) {
  const std::pair<const char*, std::function<double(double, std::int64_t)>> cases[] = {
      {"offset", [](double x, std::int64_t) { return 1000 + x; }},
      {"cubes", [](double x, std::int64_t) { return x * x * x; }},
      {"one outlier", [](double x, std::int64_t i) { return i == 5000 ? 3000 : x; }},
      {"first is the outlier", [](double x, std::int64_t i) { return i == 0 ? -3000 : x; }},
      {"huge", [](double x, std::int64_t) { return x * 0x1p100; }},
      {"tiny", [](double x, std::int64_t) { return x * 0x1p-100; }},
      {"constant", [](double, std::int64_t) { return 0.1; }},
      {"steps", [](double, std::int64_t i) { return i < 20000 ? 0.1 : 0.3; }},
      {"nan", [](double x, std::int64_t i) { return i == 777 ? NAN : x; }},
      {"infinity", [](double x, std::int64_t i) { return i == 777 ? INFINITY : x; }},
      // The first numbers of a stretch mislead about the rest.
      {"late", [](double x, std::int64_t i) { return i % 13520 < 3000 ? 0 : 1000 + x; }},
      {"grows", [](double x, std::int64_t i) { return i < 3000 ? x * 1e-20 : x * 1e15; }},
      {"beyond 6", [](double x, std::int64_t) { return 4 * x; }}};
  const Shape shape{3, 130, 104};
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16})
    for (const auto& [name, function] : cases) {
      OwnedTensor values = normal(DType::f64, shape, 99);
      for (std::int64_t i = 0; i < shape.count(); ++i) set(values, i, function(get(values, i), i));
      const Stored x = store(values, dtype);
      ActivationStatistics want(config_for(false), 1), got(config_for(false), 1);
      want.begin_step(), got.begin_step();
      want.record(cpu_, kSite, x.cpu), got.record(gpu_, kSite, x.gpu);
      want.end_step(), got.end_step();
      const SampleSums &g = got.latest()[0].all, &w = want.latest()[0].all;
      if (std::isfinite(w.pooled.m2)) {
        expect_agree(g, w, std::string(name) + " " + describe(dtype, shape));
      } else {
        EXPECT_TRUE(std::isnan(g.pooled.m2) && std::isnan(g.kurtosis)) << name;
        EXPECT_EQ(std::isnan(g.pooled.max_abs), std::isnan(w.pooled.max_abs)) << name;
        EXPECT_EQ(g.pooled.count, w.pooled.count);
        EXPECT_EQ(g.pooled.beyond_magnitude, w.pooled.beyond_magnitude);
      }
    }
}

TEST_F(GpuStatistics, MicroBatchesMassesAndAbsentSitesMerge) {
  ActivationStatistics want(config_for(true), 3), got(config_for(true), 3);
  for (int step = 0; step < 3; ++step) {
    want.begin_step(), got.begin_step();
    for (int micro = 0; micro < 3; ++micro) {
      const auto seed = std::uint32_t(10 * step + micro);
      const Stored x = store(normal(DType::f64, {5, 40, 48}, seed, 1 + micro), DType::f32);
      const Stored mass = store(normal(DType::f64, {5, 3, 40}, seed + 1), DType::f32);
      want.begin_batch(), got.begin_batch();
      want.record(cpu_, kSite, x.cpu), got.record(gpu_, kSite, x.gpu);
      got.record(gpu_, kSite, x.gpu);  // recomputed: does not count
      if (step != 1 && micro != 1)
        want.record(cpu_, kMass, mass.cpu), got.record(gpu_, kMass, mass.gpu);
      want.record(cpu_, "late", x.cpu), got.record(gpu_, "late", x.gpu);
    }
    want.end_step(), got.end_step();
    expect_agree(got, want, "step " + std::to_string(step));
  }
}

TEST_F(GpuStatistics, ManySitesAndObjectsMerge) {
  ActivationStatistics want(config_for(false), 1), got(config_for(false), 1),
      other(config_for(false), 1);
  const Stored x = store(normal(DType::f64, {6, 30, 16}, 4), DType::f32);
  want.begin_step(), got.begin_step(), other.begin_step();
  for (int site = 0; site < 150; ++site) {  // several launches, and room for sums that grows
    const std::string name = "site" + std::to_string(site);
    want.record(cpu_, name, x.cpu);
    got.record(gpu_, name, x.gpu.view().slice(0, 0, 2));
    other.record(gpu_, name, x.gpu.view().slice(0, 2, 4));
  }
  got.merge(other);
  want.end_step(), got.end_step();
  expect_agree(got, want, "merged");
}

TEST_F(GpuStatistics, RepeatBitwise) {
  for (const DType dtype : kTypes) {
    const Stored x = store(normal(DType::f64, {17, 300, 96}, 8), dtype);
    std::vector<SampleSums> first;
    for (int round = 0; round < 4; ++round) {
      ActivationStatistics statistics(config_for(true), 3);
      statistics.begin_step();
      statistics.record(gpu_, kSite, x.gpu);
      statistics.end_step();
      const SiteStatistics& site = statistics.latest()[0];
      std::vector<SampleSums> sums = site.heads;
      sums.push_back(site.all);
      if (round == 0) first = sums;
      for (std::size_t i = 0; i < sums.size(); ++i)
        EXPECT_EQ(0, std::memcmp(&sums[i], &first[i], sizeof(SampleSums))) << name_of(dtype);
    }
  }
}

TEST_F(GpuStatistics, FinalStatisticsAgreeWithTheCpu) {
  constexpr std::int64_t kTokens = 40;
  OwnedTensor mask(DType::u8, {2, kTokens});
  for (std::int64_t i = 0; i < mask.view().count(); ++i) set(mask, i, i * 7 % 5 != 1);
  const OwnedTensor gpu_mask = copy_to(kGpu, mask);
  for (const DType dtype : kTypes) {
    FinalStatistics want(config_for(false)), got(config_for(false));
    want.begin_batch(mask), got.begin_batch(gpu_mask);
    for (const char* site : {"blocks.0.output", "blocks.1.output", "embedding"}) {
      const Stored x = store(normal(DType::f64, {2, kTokens, 24}, 3, 4), dtype);
      want.record(cpu_, site, x.cpu), got.record(gpu_, site, x.gpu);
    }
    const Stored q = store(normal(DType::f64, {2, 4, kTokens, 16}, 5, 2), dtype),
                 k = store(normal(DType::f64, {2, 2, kTokens, 16}, 6, 2), dtype);
    for (const char* normalizer : {"softmax_n", "sigmoid"}) {
      AttentionProblem problem;
      problem.scale = 0.25;
      problem.normalizer = normalizer;
      problem.q = q.cpu, problem.k = problem.v = k.cpu, problem.key_padding = mask;
      want.record_attention(cpu_, normalizer, problem);
      problem.q = q.gpu, problem.k = problem.v = k.gpu, problem.key_padding = gpu_mask;
      got.record_attention(gpu_, normalizer, problem);
    }
    const FinalResults g = got.results(), w = want.results();
    EXPECT_EQ(g.outliers.channels, w.outliers.channels);
    EXPECT_EQ(g.outliers.channel_positions, w.outliers.channel_positions);
    EXPECT_FALSE(w.outliers.channels.empty());
    ASSERT_EQ(g.sites.size(), 3u);
    for (std::size_t i = 0; i < 3; ++i) {
      for (std::size_t t = 0; t < kTokens; ++t)  // NaN where both sequences are masked
        expect_near(g.sites[i].norm_by_token[t], w.sites[i].norm_by_token[t], 0, "by token");
      EXPECT_EQ(g.sites[i].norm_by_channel, w.sites[i].norm_by_channel);
      EXPECT_EQ(g.sites[i].histogram.counts, w.sites[i].histogram.counts);
    }
    ASSERT_EQ(g.attention.size(), 2u);
    for (std::size_t i = 0; i < 2; ++i) {
      const AttentionProfile &a = g.attention[i], &b = w.attention[i];
      EXPECT_EQ(a.sink_mass.size(), i == 0 ? 4u : 0u);
      for (std::size_t h = 0; h < 4; ++h) {
        expect_near(a.first_token_mass[h], b.first_token_mass[h], 1e-5, name_of(dtype).data());
        expect_near(a.entropy[h], b.entropy[h], 1e-5, name_of(dtype).data());
        expect_near(a.row_sum[h], b.row_sum[h], 1e-5, name_of(dtype).data());
      }
    }
  }
}

}  // namespace
}  // namespace quietformer
