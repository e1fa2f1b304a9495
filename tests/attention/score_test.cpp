// What distinguishes the scores and normalisers from one another: identities between them and
// closed forms.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "attention/l2norm.h"
#include "attention/normalizer/sigmoid.h"
#include "tests/attention/attention_case.h"
#include "tests/attention/naive.h"
#include "tests/support/finite_difference.h"

namespace quietformer {
namespace {

using test::AttentionCase;
using test::CaseOptions;
using test::get;

/// Values become unit vectors (Dv = S), so that o holds the weights.
void show_weights(const AttentionCase& c) {
  const Tensor& v = c.problem.v;
  for (std::int64_t i = 0; i < v.count(); ++i)
    test::set(v, i, i % v.shape[3] == i / v.shape[3] % v.shape[2] ? 1 : 0);
}

CaseOptions piecewise(std::int64_t threshold) {
  CaseOptions o;
  o.score = Score::piecewise;
  o.threshold = threshold;
  o.L = 68, o.S = 72;
  o.parameters = {1};
  o.dtype = DType::f32;
  return o;
}

/// The same problem with one pair: the far or the near one.
void expect_one_pair(const CaseOptions& options, bool far) {
  AttentionCase both(options);
  const AttentionProblem& b = both.problem;
  both.forward(), both.backward();
  CaseOptions o = options;
  o.score = Score::dot, o.threshold = 0;
  AttentionCase one(o);
  AttentionProblem& p = one.problem;
  p.q = far ? b.q2 : b.q, p.k = far ? b.k2 : b.k, p.v = b.v, p.do_ = b.do_;
  one.forward(), one.backward();
  EXPECT_TRUE(test::same_bits(b.o, p.o));
  EXPECT_TRUE(test::same_bits(far ? b.dq2 : b.dq, p.dq));
  EXPECT_TRUE(test::same_bits(far ? b.dk2 : b.dk, p.dk));
  EXPECT_TRUE(test::same_bits(b.dv, p.dv));
  EXPECT_EQ(test::max_abs(far ? b.dq : b.dq2), 0);
  EXPECT_EQ(test::max_abs(far ? b.dk : b.dk2), 0);
}

TEST(Piecewise, ThresholdBeyondEveryDistanceIsTheNearPair) {
  for (const std::int64_t threshold : {std::int64_t{72}, std::int64_t{1000}, INT64_MAX})
    expect_one_pair(piecewise(threshold), false);
}

TEST(Piecewise, ThresholdBelowEveryDistanceIsTheFarPair) {
  for (const std::int64_t threshold : {std::int64_t{1 - 68}, std::int64_t{-1000}, INT64_MIN})
    expect_one_pair(piecewise(threshold), true);
  CaseOptions causal = piecewise(0);
  causal.causal = true;
  expect_one_pair(causal, true);
}

TEST(Piecewise, DistanceEqualToTheThresholdTakesTheFarPair) {
  CaseOptions o = piecewise(3);
  o.dtype = DType::f64, o.L = 6, o.S = o.Dv = 8, o.bias = {o.B, o.H, 6, 8};
  o.normalizer = "sigmoid", o.parameters = {0};  // weights by themselves show the score
  AttentionCase c(o);
  show_weights(c);
  c.forward();
  const AttentionProblem& p = c.problem;
  for (std::int64_t i = 0; i < 6; ++i)
    for (std::int64_t j = 0; j < 8; ++j) {
      const bool far = i + 8 - 6 - j >= 3;
      double dot = get(p.bias, i * 8 + j);
      for (std::int64_t d = 0; d < o.D; ++d)
        dot += p.scale * get(far ? p.q2 : p.q, i * o.D + d) * get(far ? p.k2 : p.k, j * o.D + d);
      EXPECT_NEAR(get(p.o, i * 8 + j), 1 / (1 + std::exp(-dot)), 1e-14) << i << ", " << j;
    }
}

TEST(Piecewise, EqualPairsAreTheDotProduct) {
  CaseOptions o = piecewise(5);
  o.dtype = DType::f64;
  AttentionCase both(o);
  AttentionProblem& b = both.problem;
  b.q2 = b.q, b.k2 = b.k;
  both.forward(), both.backward();
  o.score = Score::dot, o.threshold = 0;
  AttentionCase one(o);
  AttentionProblem& p = one.problem;
  p.q = b.q, p.k = b.k, p.v = b.v, p.do_ = b.do_;
  one.forward(), one.backward();
  EXPECT_TRUE(test::close(b.o, p.o, 1e-14));
  EXPECT_TRUE(test::close(b.dv, p.dv, 1e-14));
  for (const auto& [near, far, whole] : {std::tuple{b.dq, b.dq2, p.dq}, {b.dk, b.dk2, p.dk}}) {
    const OwnedTensor sum = test::copy_of(near);
    for (std::int64_t i = 0; i < near.count(); ++i) test::set(sum, i, get(near, i) + get(far, i));
    EXPECT_TRUE(test::close(sum, whole, 1e-13));
  }
}

// One group is the dot product of rows divided by their norms.
TEST(Cosine, IsTheDotProductOfNormalisedRows) {
  for (const int groups : {1, 2, 4}) {
    CaseOptions o;
    o.score = Score::cosine, o.groups = groups, o.D = 8, o.parameters = {1};
    AttentionCase cosine(o);
    cosine.forward(), cosine.backward();
    o.score = Score::dot, o.groups = 1, o.scale = cosine.problem.scale;
    AttentionCase dot(o);
    const OwnedTensor q(DType::f64, dot.problem.q.shape), k(DType::f64, dot.problem.k.shape);
    l2norm(dot.ctx, q, dot.problem.q, groups);
    l2norm(dot.ctx, k, dot.problem.k, groups);
    dot.problem.q = q, dot.problem.k = k;
    dot.forward(), dot.backward();
    EXPECT_TRUE(test::close(cosine.problem.o, dot.problem.o, 1e-14));
    const OwnedTensor dq(DType::f64, q.view().shape);
    l2norm_backward(dot.ctx, dq, dot.problem.dq, cosine.problem.q, groups);
    EXPECT_TRUE(test::close(cosine.problem.dq, dq, 1e-13));
  }
}

// The length of queries and keys does not matter, and scores stay within scale * groups, however
// large n or bias are.
TEST(Cosine, IgnoresTheLengthOfRows) {
  CaseOptions o;
  o.score = Score::cosine, o.groups = 2, o.scale = 12, o.parameters = {1e-6};
  AttentionCase once(o), scaled(o);
  for (const Tensor& t : {scaled.problem.q, scaled.problem.k})
    for (std::int64_t i = 0; i < t.count(); ++i) test::set(t, i, 1024 * get(t, i));
  once.forward(), scaled.forward();
  EXPECT_TRUE(test::close(scaled.problem.o, once.problem.o, 1e-14));
  for (std::int64_t i = 0; i < once.problem.lse.count(); ++i)
    EXPECT_LE(get(once.problem.lse_scores, i), 24 + std::log(5.0));
}

TEST(L2Norm, MatchesDifferencesAndKeepsZeroAtZero) {
  const Context ctx;
  const Shape shape{3, 5, 12};
  for (const int groups : {1, 3, 12}) {
    const OwnedTensor x = test::normal(DType::f64, shape, 1),
                      g = test::normal(DType::f64, shape, 2);
    test::fill(x.view().slice(0, 1, 1).slice(1, 2, 1), 0);
    const OwnedTensor y(DType::f64, shape), dx(DType::f64, shape);
    l2norm(ctx, y, x, groups);
    const std::int64_t width = 12 / groups;
    for (std::int64_t i = 0; i < shape.count(); i += width) {
      double squares = 0;
      for (std::int64_t c = 0; c < width; ++c) squares += get(y, i + c) * get(y, i + c);
      EXPECT_NEAR(squares, i / 12 == 7 ? 0 : 1, 1e-14);
    }
    test::fill(x.view().slice(0, 1, 1).slice(1, 2, 1), 0.5);  // differentiable everywhere
    l2norm_backward(ctx, dx, g, x, groups);
    test::expect_gradient("l2norm", x, dx, [&] {
      l2norm(ctx, y, x, groups);
      double loss = 0;
      for (std::int64_t i = 0; i < shape.count(); ++i) loss += get(y, i) * get(g, i);
      return loss;
    });
  }
  // Below the smallest norm: linear, x / 1e-12.
  const OwnedTensor x = test::from_values(DType::f64, {2, 2}, {0, 0, 3e-14, 4e-14});
  const OwnedTensor g = test::from_values(DType::f64, {2, 2}, {1, 2, 3, 4});
  const OwnedTensor y(DType::f64, {2, 2}), dx(DType::f64, {2, 2});
  l2norm(ctx, y, x);
  l2norm_backward(ctx, dx, g, x);
  EXPECT_TRUE(test::close(y, test::from_values(DType::f64, {2, 2}, {0, 0, .03, .04}), 1e-14));
  EXPECT_TRUE(
      test::close(dx, test::from_values(DType::f64, {2, 2}, {1e12, 2e12, 3e12, 4e12}), 1e-14));
  EXPECT_THROW(l2norm(ctx, y, x, 3), InputError);
}

// All q = a, k = c, v = w: o = w S sigmoid(s + b).
TEST(Sigmoid, ClosedFormOfEqualInputs) {
  for (const double bias : {0., -1.5, -std::log(9.), 40., -800.})
    for (const double a : {3., .01, -3.}) {
      CaseOptions o;
      o.normalizer = "sigmoid", o.L = 6, o.S = 9, o.D = 4, o.scale = .3, o.parameters = {bias};
      AttentionCase run(o);
      AttentionProblem& p = run.problem;
      test::fill(p.q, a), test::fill(p.k, .5), test::fill(p.v, .7);
      test::fill(p.head_parameters[0], bias);
      run.forward();
      const double s = a * .5 * 4 * .3, weight = 1 / (1 + std::exp(-(s + bias)));
      for (std::int64_t i = 0; i < p.o.count(); ++i)
        ASSERT_NEAR(get(p.o, i), .7 * 9 * weight, 1e-14 * weight + 1e-300);
    }
}

CaseOptions clipped(double gamma, double zeta) {
  CaseOptions o;
  o.normalizer = "clipped_softmax", o.parameters = {gamma, zeta};
  o.B = o.H = o.Hk = 1;
  return o;
}

// All q = a, k = c, v = w: every share is 1 / S.
TEST(ClippedSoftmax, ClosedFormOfEqualInputs) {
  for (const auto& [gamma, zeta] :
       std::vector<std::pair<double, double>>{{0, 1}, {-.03, 1}, {-.25, 1.5}, {-.5, 1}, {0, 1.25}})
    for (const std::int64_t S : {1, 2, 6, 70}) {
      CaseOptions o = clipped(gamma, zeta);
      o.L = 5, o.S = S, o.D = 4, o.scale = .3;
      AttentionCase run(o);
      const AttentionProblem& p = run.problem;
      test::fill(p.q, 2), test::fill(p.k, .5), test::fill(p.v, .7);
      test::fill(p.head_parameters[0], gamma), test::fill(p.head_parameters[1], zeta);
      run.forward();
      const double weight = std::clamp((zeta - gamma) / double(S) + gamma, 0., 1.),
                   lse = 2 * .5 * 4 * .3 + std::log(double(S));
      for (std::int64_t i = 0; i < p.o.count(); ++i)
        ASSERT_NEAR(get(p.o, i), .7 * double(S) * weight, 1e-13);
      for (std::int64_t i = 0; i < 5; ++i) {
        EXPECT_NEAR(get(p.row_sum, i), double(S) * weight, 1e-13);
        EXPECT_NEAR(get(p.lse, i), lse, 1e-14);
        EXPECT_NEAR(get(p.lse_scores, i), lse, 1e-14);
        EXPECT_EQ(get(p.sink_mass, i), 0);
      }
      for (std::int64_t j = 0; j < S; ++j)
        EXPECT_NEAR(get(p.total_attention, j), 5 * weight, 1e-13);
    }
}

// gamma = 0, zeta = 1 clips nothing.
TEST(ClippedSoftmax, IsSoftmaxWhereNothingIsClipped) {
  CaseOptions o = clipped(0, 1);
  o.L = 70, o.S = 75, o.causal = true, o.bias = {1, 1, 70, 75}, o.dropout = 0.2;
  AttentionCase clip(o);
  o.normalizer = "softmax_n", o.parameters = {0};
  AttentionCase plain(o);
  clip.forward(), clip.backward(), plain.forward(), plain.backward();
  const AttentionProblem &a = clip.problem, &b = plain.problem;
  for (const auto& member :
       {&AttentionProblem::o, &AttentionProblem::lse, &AttentionProblem::row_sum,
        &AttentionProblem::total_attention, &AttentionProblem::dq, &AttentionProblem::dk,
        &AttentionProblem::dv, &AttentionProblem::dbias})
    EXPECT_TRUE(test::close(a.*member, b.*member, 1e-12));
}

// Shares .9, .09 and .01 with P = clip(1.25 p - .05): held at 1, free, held at 0. What is held
// still has a gradient, that of its share in the denominator.
TEST(ClippedSoftmax, GradientsOfHeldAndFreeWeights) {
  CaseOptions o = clipped(-.05, 1.2);
  o.L = 1, o.S = o.Dv = 3, o.bias = {1, 1, 1, 3};
  AttentionCase run(o);
  const AttentionProblem& p = run.problem;
  const double shares[3] = {.9, .09, .01}, weights[3] = {1, .0625, 0}, grads[3] = {2, 3, -5};
  test::fill(p.q, 0);
  test::fill(p.head_parameters[0], -.05), test::fill(p.head_parameters[1], 1.2);
  show_weights(run);
  for (int j = 0; j < 3; ++j) {
    test::set(p.bias, j, std::log(shares[j]) + 7);
    test::set(p.do_, j, grads[j]);  // of the weights
  }
  run.forward(), run.backward();
  const double delta = .09 * 1.25 * 3;
  for (int j = 0; j < 3; ++j) {
    EXPECT_NEAR(get(p.o, j), weights[j], 1e-14);
    EXPECT_NEAR(get(p.dbias, j), shares[j] * ((j == 1 ? 1.25 * 3 : 0) - delta), 1e-14);
    EXPECT_NEAR(get(p.dv, 3 * j + 1), weights[j] * 3, 1e-14);
  }
  EXPECT_NEAR(get(p.row_sum, 0), 1.0625, 1e-14);
  EXPECT_NEAR(get(p.d_head_parameters[0], 0), 3 * (1 - .09), 1e-14);
  EXPECT_NEAR(get(p.d_head_parameters[1], 0), 3 * .09, 1e-14);
}

// As torch.clamp: on a bound the gradient passes. A row's only key stands on the upper one, in any
// type, when zeta = 1, and beyond it when zeta is larger.
TEST(ClippedSoftmax, OnABoundTheGradientPasses) {
  for (const DType dtype : {DType::f32, DType::f64})
    for (const double zeta : {1., 1.1}) {
      CaseOptions o = clipped(-.03, zeta);
      o.L = o.S = o.Dv = 1, o.dtype = dtype, o.bias = {1, 1, 1, 1};
      AttentionCase run(o);
      const AttentionProblem& p = run.problem;
      test::fill(p.bias, 13.7), test::fill(p.v, 1), test::fill(p.do_, 2);
      run.forward(), run.backward();
      const double rounding = dtype == DType::f64 ? 1e-14 : 1e-5;
      EXPECT_NEAR(get(p.o, 0), 1, rounding);
      EXPECT_NEAR(get(p.dbias, 0), 0, rounding);
      EXPECT_NEAR(get(p.d_head_parameters[0], 0), 0, rounding);
      EXPECT_NEAR(get(p.d_head_parameters[1], 0), zeta > 1 ? 0 : 2, rounding);
    }
}

// Pitfall: 0.5 + 0.5 tanh(x / 2) cancels; weights near exp(-20) must keep their relative precision.
TEST(Sigmoid, SmallWeightsKeepRelativePrecisionInFloat) {
  CaseOptions o;
  o.normalizer = "sigmoid", o.parameters = {-20}, o.dtype = DType::f32, o.S = o.Dv = 40;
  AttentionCase c(o);
  show_weights(c);
  c.forward();
  const test::NaiveAttention naive(c.problem);
  for (std::int64_t h = 0; h < o.H; ++h) {
    const auto row = naive.row(0, h, 0);
    for (std::int64_t j = 0; j < o.S; ++j) {
      const double want = double(row.weights[std::size_t(j)]);
      EXPECT_NEAR(get(c.problem.o, h * o.L * o.S + j), want, 4e-6 * want);
    }
  }
}

TEST(Sigmoid, QuickWeightsOfGpusHoldUpToWhereTheySay) {
  const Sigmoid::Parameters<float> parameters{-3};
  const float highest = Sigmoid::small_up_to(parameters);
  for (float score = -80; score <= highest; score += 0.01f) {
    const double want = 1 / (1 + std::exp(-(double(score) + parameters.bias)));
    const float got = Sigmoid::small_weight_of_product(2 * score, 0.5f, {}, parameters);
    EXPECT_NEAR(got, want, 2.5e-4 * want) << score;
  }
  EXPECT_EQ(Sigmoid::small_weight_of_product(-INFINITY, 0.5f, {}, parameters), 0.0f);
}

// Unlike softmax, a constant added to all scores matters.
TEST(Sigmoid, IsNotShiftInvariant) {
  CaseOptions o;
  o.normalizer = "sigmoid", o.bias = {1, 1, 1, 1};
  AttentionCase plain(o), shifted(o), moved(o);
  test::fill(plain.problem.bias, 0), test::fill(shifted.problem.bias, 1.25);
  test::fill(moved.problem.bias, 0);
  moved.problem.head_parameters[0] = moved.make(DType::f64, {o.H});
  test::fill(moved.problem.head_parameters[0], 1.25);
  plain.forward(), shifted.forward(), moved.forward();
  EXPECT_FALSE(test::close(shifted.problem.o, plain.problem.o, 1e-3));
  EXPECT_TRUE(test::close(shifted.problem.o, moved.problem.o, 1e-14));
}

// Gradients summed over many rows keep the precision of one: the sums run in double.
TEST(Sigmoid, LongSumsOfBroadcastGradientsStayExactInFloat) {
  for (const int summed : {0, 2}) {  // over the batch, over queries
    CaseOptions o;
    o.normalizer = "sigmoid", o.parameters = {0}, o.H = o.Hk = o.D = o.Dv = 1, o.S = 2;
    o.B = summed == 0 ? 20000 : 1, o.L = summed == 2 ? 20000 : 1, o.bias = {1, 1, 1, 2};
    const auto run = [&](DType dtype) {
      o.dtype = dtype;
      AttentionCase c(o);
      c.problem.weights = {};
      for (const Tensor& t : {c.problem.v, c.problem.do_})  // all terms of one sign
        for (std::int64_t i = 0; i < t.count(); ++i) test::set(t, i, 1 + 0.1 * get(t, i));
      c.forward(), c.backward();
      return std::pair(test::copy_as(c.problem.dbias, DType::f64),
                       test::copy_as(c.problem.d_head_parameters[0], DType::f64));
    };
    const auto exact = run(DType::f64), rounded = run(DType::f32);
    EXPECT_TRUE(test::close(rounded.first, exact.first, 2e-7));
    EXPECT_TRUE(test::close(rounded.second, exact.second, 2e-7));
  }
}

}  // namespace
}  // namespace quietformer
