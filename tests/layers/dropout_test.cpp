#include "layers/dropout.h"

#include <gtest/gtest.h>

#include "core/random.h"
#include "tests/support/tensors.h"

namespace quietformer {
namespace {

using namespace test;

Context training() {
  Context ctx;
  ctx.mode = Mode::train;
  ctx.random = {5, 8, 0};
  return ctx;
}

OwnedTensor ones(const Shape& shape) {
  OwnedTensor t(DType::f32, shape);
  fill(t, 1);
  return t;
}

TEST(DropoutLayer, DrawsTheSharedBits) {
  const Context ctx = training();
  const Dropout dropout{0.3, 4, DropoutSite::attention};
  // 135 features: whole blocks of 64 and a rest that is no multiple of four.
  const OwnedTensor x = ones({2, 3, 135}), y(DType::f32, {2, 3, 135});
  dropout_apply(ctx, dropout, y, x);
  const RandomKey key = stream_key(5, RandomPurpose::dropout, 4, 8);
  for (std::uint32_t b = 0; b < 2; ++b)
    for (std::uint32_t t = 0; t < 3; ++t)
      for (std::uint32_t c = 0; c < 135; ++c) {
        const bool keep = dropout_keep(key, dropout_threshold(0.3), b, 1, t, c);
        EXPECT_EQ(y.as<float>()[(b * 3 + t) * 135 + c], keep ? 1.0f / 0.7f : 0.0f);
      }
}

TEST(DropoutLayer, RateAndMean) {
  for (const double p : {0.1, 0.5}) {
    const Context ctx = training();
    const Shape shape{8, 50, 500};
    const OwnedTensor x = ones(shape);
    dropout_apply(ctx, {p, 0, DropoutSite::mlp}, x, x);
    double dropped = 0, sum = 0;
    for (std::int64_t i = 0; i < shape.count(); ++i)
      dropped += x.as<float>()[i] == 0, sum += x.as<float>()[i];
    EXPECT_NEAR(dropped / double(shape.count()), p, 0.01 * p);
    EXPECT_NEAR(sum / double(shape.count()), 1, 0.01);
  }
}

TEST(DropoutLayer, MicroBatchesDropTheSameElements) {
  const Shape shape{6, 7, 70}, half{3, 7, 70};
  Context ctx = training();
  const Dropout dropout{0.5, 1, DropoutSite::embedding};
  const OwnedTensor whole = ones(shape);
  dropout_apply(ctx, dropout, whole, whole);
  for (const std::uint32_t first : {0u, 3u}) {
    ctx.random.first_sample = first;
    const OwnedTensor part = ones(half);
    dropout_apply(ctx, dropout, part, part);
    EXPECT_TRUE(same_bits(part, copy_of(whole.view().slice(0, first, 3))));
  }
}

TEST(DropoutLayer, SitesLayersStepsAndSamplesDiffer) {
  const Shape shape{1, 16, 64};
  const auto mask = [&](const Context& ctx, const Dropout& dropout) {
    OwnedTensor x = ones(shape);
    dropout_apply(ctx, dropout, x, x);
    return x;
  };
  const Context ctx = training();
  const Dropout dropout{0.5, 1, DropoutSite::mlp};
  const OwnedTensor first = mask(ctx, dropout);
  EXPECT_TRUE(same_bits(first, mask(ctx, dropout)));
  Context later = ctx, other_sample = ctx, other_seed = ctx;
  later.random.step += 1;
  other_sample.random.first_sample += 1;
  other_seed.random.seed += 1;
  EXPECT_FALSE(same_bits(first, mask(later, dropout)));
  EXPECT_FALSE(same_bits(first, mask(other_sample, dropout)));
  EXPECT_FALSE(same_bits(first, mask(other_seed, dropout)));
  EXPECT_FALSE(same_bits(first, mask(ctx, {0.5, 2, DropoutSite::mlp})));
  EXPECT_FALSE(same_bits(first, mask(ctx, {0.5, 1, DropoutSite::attention})));
}

TEST(DropoutLayer, EvaluationIsTheIdentity) {
  Context ctx = training();
  ctx.mode = Mode::evaluate;
  const OwnedTensor x = normal(DType::f32, {2, 3, 50}, 1), y(DType::f32, {2, 3, 50});
  dropout_apply(ctx, {0.5, 0, DropoutSite::mlp}, y, x);
  EXPECT_TRUE(same_bits(x, y));
  EXPECT_FALSE(active(ctx, {0.5, 0, DropoutSite::mlp}));
  EXPECT_FALSE(active(training(), {0.0, 0, DropoutSite::mlp}));
}

}  // namespace
}  // namespace quietformer
