#include "layers/cross_entropy.h"

#include <gtest/gtest.h>

#include "tests/support/finite_difference.h"
#include "tests/support/tensors.h"

namespace quietformer {
namespace {

using namespace test;

/// One call with its outputs.
struct Loss {
  Loss(const Tensor& logits_, const Tensor& targets_, int threads = 1)
      : logits(logits_),
        targets(targets_),
        value(DType::f64, {2}),
        row_loss(logits.dtype, {targets.count()}),
        row_lse(logits.dtype, {targets.count()}),
        gradient(logits.dtype, logits.shape) {
    ctx.threads = threads;
  }
  double forward() {
    cross_entropy_forward(ctx, value, row_loss, row_lse, logits, targets);
    return get(value, 0);
  }
  void backward(double scale) {
    cross_entropy_backward(ctx, gradient, logits, targets, value, row_lse, scale);
  }
  Context ctx;
  Tensor logits, targets;
  GuardedTensor value, row_loss, row_lse, gradient;
};

OwnedTensor some_targets(std::int64_t rows, std::int64_t vocab) {
  OwnedTensor targets(DType::i32, {rows});
  for (std::int64_t r = 0; r < rows; ++r)
    targets.as<std::int32_t>()[r] = static_cast<std::int32_t>(r % 4 == 3 ? -100 : r * 7 % vocab);
  return targets;
}

TEST(CrossEntropy, UniformLogitsGiveLogOfTheVocabulary) {
  const OwnedTensor logits(DType::f64, {3, 17}), targets = some_targets(3, 17);
  fill(logits, 5.5);
  Loss loss(logits, targets);
  EXPECT_NEAR(loss.forward(), std::log(17.0), 1e-14);
  loss.backward(1);
  EXPECT_NEAR(get(loss.gradient, 1), 1.0 / 17 / 3, 1e-15);
  EXPECT_NEAR(get(loss.gradient, 0), (1.0 / 17 - 1) / 3, 1e-15);
}

TEST(CrossEntropy, TwoClassesAreTheLogisticLoss) {
  for (const double difference : {-200.0, -30.0, -1.0, 0.0, 1.0, 30.0, 200.0}) {
    // A common shift far outside the range of exp must cancel.
    const OwnedTensor logits = from_values(DType::f64, {1, 2}, {1e4 + difference, 1e4});
    const OwnedTensor targets(DType::i32, {1});
    Loss loss(logits, targets);
    const double want = difference > 0 ? std::log1p(std::exp(-difference))
                                       : -difference + std::log1p(std::exp(difference));
    EXPECT_NEAR(loss.forward(), want, 1e-11);
  }
}

TEST(CrossEntropy, IgnoredTargetsCountForNothing) {
  const OwnedTensor logits = normal(DType::f64, {8, 5}, 1, 2);
  const OwnedTensor targets = some_targets(8, 5);
  Loss loss(logits, targets);
  const double value = loss.forward();
  EXPECT_EQ(get(loss.value, 1), 6);
  double sum = 0;
  for (int r = 0; r < 8; ++r) sum += get(loss.row_loss, r);
  EXPECT_NEAR(value, sum / 6, 1e-14);
  EXPECT_EQ(get(loss.row_loss, 3), 0);
  loss.backward(1);
  for (int c = 0; c < 5; ++c) EXPECT_EQ(get(loss.gradient, 3 * 5 + c), 0);
  // Another value in an ignored row changes nothing else.
  logits.as<double>()[3 * 5] = 100;
  EXPECT_EQ(loss.forward(), value);
}

TEST(CrossEntropy, NoValidTargetIsZeroLossAndZeroGradient) {
  const OwnedTensor logits = normal(DType::f32, {2, 5}, 1), targets(DType::i32, {2});
  fill(targets, -1);
  Loss loss(logits, targets);
  EXPECT_EQ(loss.forward(), 0);
  EXPECT_EQ(get(loss.value, 1), 0);
  loss.backward(1);
  EXPECT_EQ(max_abs(loss.gradient), 0);
}

TEST(CrossEntropy, GradientMatchesCentralDifferencesAndScales) {
  const OwnedTensor logits = normal(DType::f64, {6, 9}, 1, 2), targets = some_targets(6, 9);
  Loss loss(logits, targets);
  loss.forward();
  loss.backward(1);
  const OwnedTensor gradient = copy_of(loss.gradient);
  expect_gradient("logits", logits, gradient, [&] { return loss.forward(); });
  loss.forward();
  loss.backward(3);
  for (std::int64_t i = 0; i < 54; ++i)
    EXPECT_NEAR(get(loss.gradient, i), 3 * get(gradient, i), 1e-15);
  EXPECT_TRUE(loss.value.intact() && loss.row_loss.intact() && loss.row_lse.intact() &&
              loss.gradient.intact());
}

TEST(CrossEntropy, InPlaceThreadsAndPrecision) {
  const std::int64_t rows = 150, vocab = 331;
  const OwnedTensor logits = normal(DType::f32, {rows, vocab}, 1, 3),
                    targets = some_targets(rows, vocab);
  Loss one(logits, targets, 1), many(logits, targets, 3);
  EXPECT_EQ(one.forward(), many.forward());
  one.backward(1), many.backward(1);
  EXPECT_TRUE(same_bits(one.gradient, many.gradient));

  const OwnedTensor exact = copy_as(logits, DType::f64);
  Loss reference(exact, targets);
  EXPECT_NEAR(one.forward(), reference.forward(), 1e-6);
  reference.backward(1);
  EXPECT_TRUE(close(one.gradient, reference.gradient, 2e-5));

  const OwnedTensor in_place = copy_of(logits);
  cross_entropy_backward(one.ctx, in_place, in_place, targets, one.value, one.row_lse, 1);
  EXPECT_TRUE(same_bits(in_place, one.gradient));
}

TEST(CrossEntropy, ExtremeLogitsStayFiniteAndNaNShows) {
  const OwnedTensor logits =
      from_values(DType::f32, {2, 4}, {3e38, -3e38, 0, 0, -3e38, -3e38, -3e38, -3e38});
  const OwnedTensor targets(DType::i32, {2});
  Loss loss(logits, targets);
  EXPECT_NEAR(loss.forward(), std::log(4.0) / 2, 1e-6);
  loss.backward(1);
  EXPECT_TRUE(std::isfinite(max_abs(loss.gradient)));
  logits.as<float>()[5] = NAN;
  EXPECT_TRUE(std::isnan(loss.forward()));
}

TEST(CrossEntropy, RefusesTargetsOutsideTheVocabulary) {
  const OwnedTensor logits(DType::f32, {1, 4}), targets(DType::i32, {1});
  fill(targets, 4);
  Loss loss(logits, targets);
  EXPECT_THROW(loss.forward(), InputError);
}

}  // namespace
}  // namespace quietformer
