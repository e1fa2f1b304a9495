#include "layers/position.h"

#include <gtest/gtest.h>

#include "layers/self_attention.h"
#include "tests/support/tensors.h"

namespace quietformer {
namespace {

using namespace test;

OwnedTensor positions_from(std::int64_t first, std::int64_t count) {
  OwnedTensor positions(DType::i32, {count});
  for (std::int64_t t = 0; t < count; ++t)
    positions.as<std::int32_t>()[t] = static_cast<std::int32_t>(first + t);
  return positions;
}

double dot(const Tensor& a, std::int64_t row_a, const Tensor& b, std::int64_t row_b) {
  const std::int64_t n = a.shape[3];
  double sum = 0;
  for (std::int64_t d = 0; d < n; ++d)
    sum += a.as<double>()[row_a * n + d] * b.as<double>()[row_b * n + d];
  return sum;
}

// semantics.md 4.15: an ancestor rotated by the head's index, because the layout was not the one
// its function expected.
TEST(Rotary, ProductsDependOnTheDistanceAloneAndHeadsTurnAlike) {
  const Context ctx;
  const std::int64_t tokens = 9, heads = 3, dim = 8;
  const RotaryTable table(DType::f64, dim, 40, 10000);
  // The same vectors at every token and head.
  OwnedTensor q(DType::f64, {1, tokens, heads, dim}), k(DType::f64, {1, tokens, heads, dim});
  for (std::int64_t i = 0; i < q.view().count(); ++i) {
    q.as<double>()[i] = std::sin(double(1 + i % dim));
    k.as<double>()[i] = std::cos(double(2 + i % dim));
  }
  const Tensor views[2] = {q, k};
  for (const Tensor& t : views) rotary_forward(ctx, t, t, table, positions_from(0, tokens));
  const auto row = [=](std::int64_t t, std::int64_t h) { return t * heads + h; };
  for (std::int64_t i = 0; i < tokens; ++i)
    for (std::int64_t j = 0; j < tokens; ++j) {
      const double product = dot(q, row(i, 0), k, row(j, 0));
      if (i > 0 && j > 0) {
        EXPECT_NEAR(product, dot(q, row(i - 1, 0), k, row(j - 1, 0)), 1e-12);
      }
      for (std::int64_t h = 1; h < heads; ++h)
        EXPECT_NEAR(product, dot(q, row(i, h), k, row(j, h)), 1e-12);
      if (i != j) {
        EXPECT_GT(std::abs(product - dot(q, row(0, 0), k, row(0, 0))), 1e-6);
      }
    }
}

TEST(Rotary, HalfSplitPairsAndFrequencies) {
  const Context ctx;
  const std::int64_t dim = 6;
  const RotaryTable table(DType::f64, dim, 12, 500);
  OwnedTensor x = normal(DType::f64, {1, 4, 1, dim}, 1), y(DType::f64, {1, 4, 1, dim});
  rotary_forward(ctx, y, x, table, positions_from(7, 4));
  for (std::int64_t t = 0; t < 4; ++t)
    for (std::int64_t d = 0; d < dim / 2; ++d) {
      const double angle = double(7 + t) * std::pow(500.0, -2.0 * double(d) / double(dim));
      const double a = x.as<double>()[t * dim + d], b = x.as<double>()[t * dim + d + dim / 2];
      EXPECT_NEAR(y.as<double>()[t * dim + d], a * std::cos(angle) - b * std::sin(angle), 1e-14);
      EXPECT_NEAR(y.as<double>()[t * dim + d + dim / 2], b * std::cos(angle) + a * std::sin(angle),
                  1e-14);
    }
}

TEST(Rotary, BackwardIsTheInverseAndPositionZeroChangesNothing) {
  const Context ctx;
  const Shape shape{2, 5, 3, 4};
  const RotaryTable table(DType::f32, 4, 30, 10000);
  const OwnedTensor x = normal(DType::f32, shape, 1), y(DType::f32, shape), back(DType::f32, shape);
  const OwnedTensor far = positions_from(20, 5), zero(DType::i32, {5});
  rotary_forward(ctx, y, x, table, far);
  rotary_backward(ctx, back, y, table, far);
  EXPECT_TRUE(close(back, x, 1e-6));
  rotary_backward(ctx, back, y, table, far, Accumulate::add);
  for (std::int64_t i = 0; i < shape.count(); ++i)
    EXPECT_NEAR(back.as<float>()[i], 2 * x.as<float>()[i], 1e-5);
  rotary_forward(ctx, y, x, table, zero);
  EXPECT_TRUE(same_bits(y, x));
}

TEST(Rotary, WorksInsidePackedRows) {
  const Context ctx;
  const std::int64_t tokens = 5, heads = 2, dim = 4, width = 3 * heads * dim;
  const RotaryTable table(DType::f64, dim, tokens, 10000);
  const OwnedTensor packed = normal(DType::f64, {2, tokens, width}, 1);
  const OwnedTensor before = copy_of(packed);
  Tensor view = packed.view().slice(2, heads * dim, heads * dim);  // k, say
  view.shape = {2, tokens, heads, dim};
  view.stride = {tokens * width, width, dim, 1, 0};
  const OwnedTensor contiguous = copy_of(view);
  rotary_forward(ctx, view, view, table, positions_from(0, tokens));
  rotary_forward(ctx, contiguous, contiguous, table, positions_from(0, tokens));
  EXPECT_TRUE(same_bits(copy_of(view), contiguous));
  for (std::int64_t i = 0; i < before.view().count(); ++i)
    if (i % width < heads * dim || i % width >= 2 * heads * dim) {
      EXPECT_EQ(packed.as<double>()[i], before.as<double>()[i]);
    }
}

TEST(Rotary, RefusesPositionsOutsideTheTable) {
  const Context ctx;
  const RotaryTable table(DType::f32, 4, 3, 10000);
  const OwnedTensor x(DType::f32, {1, 2, 1, 4});
  EXPECT_THROW(rotary_forward(ctx, x, x, table, positions_from(2, 2)), std::logic_error);
}

TEST(Sinusoids, AreVaswanis) {
  const OwnedTensor table(DType::f64, {5, 7});
  fill_sinusoids(table);
  for (int t = 0; t < 5; ++t)
    for (int i = 0; i < 7; ++i) {
      const double angle = t / std::pow(10000.0, (i - i % 2) / 7.0);
      EXPECT_NEAR(get(table, t * 7 + i), i % 2 == 0 ? std::sin(angle) : std::cos(angle), 1e-14);
    }
}

TEST(Alibi, SlopesForAnyNumberOfHeads) {
  const auto slopes = [](std::int64_t heads) {
    OwnedTensor t(DType::f64, {heads});
    fill_alibi_slopes(t);
    std::vector<double> values;
    for (std::int64_t h = 0; h < heads; ++h) values.push_back(std::log2(t.as<double>()[h]));
    return values;
  };
  EXPECT_EQ(slopes(4), (std::vector<double>{-2, -4, -6, -8}));
  EXPECT_EQ(slopes(6), (std::vector<double>{-2, -4, -6, -8, -1, -3}));
  EXPECT_EQ(slopes(1), (std::vector<double>{-8}));
}

TEST(PaddingPositions, CountWhatIsNotPadding) {
  const OwnedTensor tokens =
      test::from_values(DType::i32, {2, 5}, {7, 1, 8, 9, 1, /**/ 1, 1, 1, 5, 1});
  const OwnedTensor positions(DType::i32, {2, 5});
  padding_positions(Context(), positions, tokens, 1);
  EXPECT_TRUE(test::same_bits(
      positions, test::from_values(DType::i32, {2, 5}, {2, 1, 3, 4, 1, /**/ 1, 1, 1, 2, 1})));
}

}  // namespace
}  // namespace quietformer
