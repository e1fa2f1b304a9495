// softmax_n at the ends of its range: signs and sizes of scores, n and sink logit; its identities
// and closed forms.
#include "attention/softmax_n.h"

#include <gtest/gtest.h>

#include <cmath>

#include "attention/normalizer/softmax_n.h"
#include "tests/attention/attention_case.h"
#include "tests/attention/naive.h"
#include "tests/support/finite_difference.h"

namespace quietformer {
namespace {

using test::AttentionCase;
using test::CaseOptions;
using test::from_values;
using test::get;

std::vector<double> softmax_of(const std::vector<double>& x, double n, DType dtype) {
  const OwnedTensor in = from_values(dtype, {std::int64_t(x.size())}, x);
  const OwnedTensor out(dtype, in.view().shape);
  softmax_n(Context(), out, in, n, 0);
  std::vector<double> values;
  for (std::size_t i = 0; i < x.size(); ++i) values.push_back(get(out, std::int64_t(i)));
  return values;
}

double sum_of(const std::vector<double>& x) {
  double sum = 0;
  for (const double value : x) sum += value;
  return sum;
}

// Values published with softmax_1, to their four digits.
TEST(SoftmaxN, GoldenValues) {
  struct Golden {
    std::vector<double> x, weights;
    double sum;
  };
  for (const Golden& golden :
       {Golden{{1, 2, 3, 4, 5}, {.0116, .0315, .0858, .2331, .6337}, .9957},
        Golden{{1, 2, -3, -4, -1e4}, {.2432, .6612, .0045, .0016, 0}, .9105},
        Golden{{-1, -2, -3e13, -2e11, -1e4}, {.2447, .0900, 0, 0, 0}, .3348}})
    for (const DType dtype : {DType::f32, DType::f64}) {
      const std::vector<double> weights = softmax_of(golden.x, 1, dtype);
      for (std::size_t i = 0; i < weights.size(); ++i)
        EXPECT_NEAR(weights[i], golden.weights[i], 5.1e-5);
      EXPECT_NEAR(sum_of(weights), golden.sum, 5.1e-5);
    }
}

TEST(SoftmaxN, LogarithmsOfNumeratorsOverTheirSumAndN) {
  for (const std::vector<double>& a :
       std::vector<std::vector<double>>{{1, 3, 6},
                                        {3, 1, 4},
                                        {1 / 6., 1 / 3., 1 / 2.},
                                        {.5, 1.5, 3},
                                        {100, 200, 300},
                                        {1 / 600., 1 / 300., 1 / 200.},
                                        {2 / 7., 4 / 7., 8 / 7.}})
    for (const double n : {0., 1., 1e-3, 1e-6, 4.}) {
      const std::vector<double> weights =
          softmax_of({std::log(a[0]), std::log(a[1]), std::log(a[2])}, n, DType::f64);
      for (std::size_t i = 0; i < 3; ++i)
        EXPECT_NEAR(weights[i], a[i] / (n + a[0] + a[1] + a[2]), 1e-15);
    }
}

TEST(SoftmaxN, LargeInputsDoNotOverflow) {
  for (const double n : {0., 1., 1e-3, 1e-6, 4.})
    for (const DType dtype : {DType::f32, DType::f64}) {
      EXPECT_NEAR(sum_of(softmax_of({12, 89, 710}, n, dtype)), 1, 1e-6);
      EXPECT_NEAR(sum_of(softmax_of({-712, -789, -710}, n, dtype)), n == 0 ? 1 : 0, 1e-6);
    }
  EXPECT_EQ(sum_of(softmax_of({-INFINITY, -INFINITY}, 0, DType::f32)), 0);
  EXPECT_EQ(sum_of(softmax_of({-INFINITY, -INFINITY}, 1, DType::f32)), 0);
}

TEST(SoftmaxN, AnyDimensionForwardAndBackward) {
  const Context ctx;
  const Shape shape{2, 5, 3, 37};
  for (int dim = -4; dim < 4; ++dim) {
    const OwnedTensor x = test::normal(DType::f64, shape, 1),
                      g = test::normal(DType::f64, shape, 2);
    const OwnedTensor out(DType::f64, shape), dx(DType::f64, shape);
    softmax_n(ctx, out, x, 0.5, dim);
    softmax_n_backward(ctx, dx, g, out, dim);
    const int axis = dim < 0 ? dim + 4 : dim;
    for (std::int64_t i = 0; i < shape.count(); ++i) {  // the definition
      const std::int64_t step = x.view().stride[axis];
      const std::int64_t first = i - i / step % shape[axis] * step;
      double sum = 0.5;
      for (std::int64_t j = 0; j < shape[axis]; ++j) sum += std::exp(get(x, first + j * step));
      ASSERT_NEAR(get(out, i), std::exp(get(x, i)) / sum, 1e-14);
    }
    const OwnedTensor y(DType::f64, shape);
    test::DifferenceOptions options;
    options.elements = 60;
    test::expect_gradient(
        "dim " + std::to_string(dim), x, dx,
        [&] {
          softmax_n(ctx, y, x, 0.5, dim);
          double loss = 0;
          for (std::int64_t i = 0; i < shape.count(); ++i) loss += get(y, i) * get(g, i);
          return loss;
        },
        options);
    // In place, on several threads: same bits.
    Context threads;
    threads.threads = 3;
    softmax_n(threads, x, x, 0.5, dim);
    EXPECT_TRUE(test::same_bits(x, out));
    softmax_n_backward(threads, g, g, out, dim);
    EXPECT_TRUE(test::same_bits(g, dx));
  }
}

/// One head, one query, D = 1: the scores are the keys.
CaseOptions one_row(const std::vector<double>& parameters, std::int64_t keys, DType dtype) {
  CaseOptions o;
  o.B = o.H = o.Hk = o.L = o.D = 1, o.Dv = 2, o.S = keys, o.scale = 1;
  o.parameters = parameters, o.dtype = dtype;
  return o;
}

// Every distribution of scores with every n and sink logit: outputs, statistics and the gradients
// of n and the sink logit against sums without any shift in long double.
TEST(SoftmaxN, SafeForAnyScoreNAndSinkLogit) {
  struct Distribution {
    double mean, std;
  };
  for (const DType dtype : {DType::f32, DType::f64})
    for (const Distribution d :
         {Distribution{-30, 1}, {30, 1}, {0, 3e-4}, {0, 25}, {-200, 3}, {90, 1}})
      for (const double n : {0., 1e-6, 1e-3, .5, 1., 4., 1e4})
        for (const double theta : {-math::kInfinity<double>, -20., -5., 0., 5., 20., 100.}) {
          SCOPED_TRACE(testing::Message() << name_of(dtype) << " mean " << d.mean << " std "
                                          << d.std << " n " << n << " theta " << theta);
          AttentionCase c(one_row({n, theta}, 21, dtype));
          const AttentionProblem& p = c.problem;
          test::fill(p.q, 1);
          test::fill_normal(p.k, 5, d.std, d.mean);
          c.forward(), c.backward();
          const test::NaiveAttention naive(p);
          const auto row = naive.row(0, 0, 0);
          const auto o = naive.output(0, 0, 0, row);
          test::Real delta = 0, sum = 0;
          for (int i = 0; i < 2; ++i) delta += o[std::size_t(i)] * test::Real(get(p.do_, i));
          for (const test::Real weight : row.weights) sum += weight;
          const double eps = dtype == DType::f32 ? 2e-5 : 1e-12;
          const auto near = [&](const Tensor& actual, test::Real want) {
            // Below the smallest normal number of the type, only absolute error counts.
            const double tiny = dtype == DType::f32 ? 1e-37 : 1e-300;
            if (std::abs(want) > 3e38L && dtype == DType::f32) {
              EXPECT_TRUE(std::isinf(get(actual, 0)));
            } else {
              EXPECT_NEAR(get(actual, 0), double(want), eps * std::abs(double(want)) + tiny);
            }
          };
          for (int i = 0; i < 2; ++i)
            EXPECT_NEAR(get(p.o, i), double(o[std::size_t(i)]), eps * double(sum) + 1e-37);
          near(p.row_sum, sum);
          // A logarithm near 0 has no relative precision in the oracle; absolute is what exp needs.
          EXPECT_NEAR(get(p.lse, 0), double(row.lse),
                      eps * std::max(1.0, std::abs(double(row.lse))));
          near(p.lse_scores, row.lse_scores);
          near(p.sink_mass, row.sink_mass);
          EXPECT_NEAR(get(p.row_sum, 0) + get(p.sink_mass, 0), 1, eps);
          // The error of delta = do.o is relative to the terms of the sum, not to the sum.
          const test::Real scale = std::exp(-row.lse);
          const double slack = 4 * eps * double(scale * sum) + 1e-36;
          if (double(scale * sum) < 1e37) {
            EXPECT_NEAR(get(p.d_head_parameters[0], 0), double(-scale * delta), slack);
          }
          EXPECT_NEAR(get(p.d_head_parameters[1], 0),
                      double(-std::exp(test::Real(theta) - row.lse) * delta), 4 * eps);
        }
}

// Pitfall: a natural n in a base-2 kernel, invisible unless the maximum is far from 0.
TEST(SoftmaxN, SixteenEqualScores) {
  for (const double s : {-4., -2., 1.}) {
    AttentionCase c(one_row({1}, 16, DType::f64));
    test::fill(c.problem.q, 1);
    test::fill(c.problem.k, s);
    c.forward();
    EXPECT_NEAR(get(c.problem.row_sum, 0), 16 / (std::exp(-s) + 16), 1e-15);
  }
}

// Pitfall: n = 1e-6 with scores of -12 must keep most of the weight.
TEST(SoftmaxN, TinyNWithNegativeScores) {
  AttentionCase c(one_row({1e-6}, 1, DType::f32));
  test::fill(c.problem.q, 1);
  test::fill(c.problem.k, -12);
  c.forward();
  EXPECT_NEAR(get(c.problem.row_sum, 0), 0.860, 5e-4);
}

// Pitfall: a large sink logit with no visible key at all.
TEST(SoftmaxN, RowsThatSeeNothingLeaveAllToTheSink) {
  for (const double theta : {-math::kInfinity<double>, -20., 0., 100.})
    for (const double n : {0., 2.}) {
      CaseOptions o = one_row({n, theta}, 3, DType::f32);
      o.mask = {1, 1, 1, 1};
      AttentionCase c(o);
      test::fill(c.problem.mask, 0);
      c.forward(), c.backward();
      const double sink = n + std::exp(theta);
      const AttentionProblem& p = c.problem;
      EXPECT_EQ(get(p.lse_scores, 0), -INFINITY);
      if (sink > 0) {
        EXPECT_NEAR(get(p.lse, 0), std::log(sink), 1e-5);
      } else {
        EXPECT_EQ(get(p.lse, 0), -INFINITY);
      }
      EXPECT_EQ(get(p.sink_mass, 0), sink > 0 ? 1 : 0);
      for (const Tensor& t :
           {p.o, p.dq, p.dk, p.dv, p.d_head_parameters[0], p.d_head_parameters[1]})
        EXPECT_EQ(test::max_abs(t), 0);
    }
}

// All q = a, k = c, v = w: o = w S / (n exp(-s) + S) with s = a c E tau; causal: S becomes l + S -
// L.
TEST(SoftmaxN, ClosedFormOfEqualInputs) {
  for (const double n : {0., 1., 1e-3, 1e-6, 4.})
    for (const double a : {10., 3., .5, .04, .01, 0., -.04, -.5, -3.})
      for (const bool causal : {false, true}) {
        const double c = .5, w = .7, tau = .3;
        CaseOptions o;
        o.L = 6, o.S = 9, o.D = 4, o.scale = tau, o.causal = causal;
        o.parameters = {n};
        AttentionCase run(o);
        AttentionProblem& p = run.problem;
        test::fill(p.q, a), test::fill(p.k, c), test::fill(p.v, w);
        test::fill(p.head_parameters[0], n);
        run.forward();
        const double s = a * c * 4 * tau;
        for (std::int64_t i = 0; i < p.o.count(); ++i) {
          const double keys = causal ? double(i / 3 % 6 + 1 + 9 - 6) : 9;
          ASSERT_NEAR(get(p.o, i), w * keys / (n * std::exp(-s) + keys), 1e-14);
        }
      }
}

/// Two runs that must agree; returns o, dq and dv of the first `keys` keys.
struct Compared {
  OwnedTensor o, dq, dv;
};
Compared compare_of(const AttentionCase& c, std::int64_t keys) {
  c.forward(), c.backward();
  const AttentionProblem& p = c.problem;
  return {test::copy_of(p.o), test::copy_of(p.dq), test::copy_of(p.dv.slice(2, 0, keys))};
}
void expect_equal(const Compared& a, const Compared& b, double tolerance = 1e-13) {
  EXPECT_TRUE(test::close(a.o, b.o, tolerance));
  EXPECT_TRUE(test::close(a.dq, b.dq, tolerance));
  EXPECT_TRUE(test::close(a.dv, b.dv, tolerance));
}

TEST(SoftmaxN, IntegerNIsThatManyZeroKeysWithZeroValues) {
  for (const int n : {1, 4}) {
    CaseOptions o;
    o.parameters = {double(n)};
    o.L = 5, o.S = 7;
    AttentionCase with_n(o);
    test::fill(with_n.problem.head_parameters[0], n);
    o.parameters = {};
    o.S = 7 + n;
    AttentionCase with_keys(o);
    const AttentionProblem &a = with_n.problem, &b = with_keys.problem;
    test::fill(b.k, 0), test::fill(b.v, 0);
    for (const auto& [to, from] : {std::pair{b.q, a.q},
                                   {b.do_, a.do_},
                                   {b.k.slice(2, 0, 7), a.k},
                                   {b.v.slice(2, 0, 7), a.v}})
      for (std::int64_t i = 0; i < from.count(); ++i) test::set(to, i, get(from, i));
    expect_equal(compare_of(with_n, 7), compare_of(with_keys, 7));
  }
}

TEST(SoftmaxN, SinkLogitIsLnOfN) {
  CaseOptions o;
  o.parameters = {2.5};
  AttentionCase with_n(o);
  o.parameters = {0, 1};
  AttentionCase with_sink(o);
  for (std::int64_t h = 0; h < o.H; ++h) {
    const double n = get(with_n.problem.head_parameters[0], h);
    test::set(with_sink.problem.head_parameters[1], h, std::log(n));
  }
  expect_equal(compare_of(with_n, o.S), compare_of(with_sink, o.S));
  // dtheta = n dn
  for (std::int64_t h = 0; h < o.H; ++h)
    EXPECT_NEAR(
        get(with_sink.problem.d_head_parameters[1], h),
        get(with_n.problem.d_head_parameters[0], h) * get(with_n.problem.head_parameters[0], h),
        1e-13);
}

// A constant added to all scores changes nothing at n = 0 and is no shift at n > 0: there it is n
// that scales, n exp(-c). So ALiBi and bias may not lose their row constants.
TEST(SoftmaxN, ConstantAddedToAllScores) {
  for (const double n : {0., 1.5})
    for (const double shift : {-3., 40.}) {
      CaseOptions o;
      o.bias = {1, 1, 1, 1};
      o.parameters = {n};
      AttentionCase plain(o), shifted(o), scaled(o);
      test::fill(plain.problem.bias, 0), test::fill(shifted.problem.bias, shift);
      test::fill(scaled.problem.bias, shift);
      for (std::int64_t h = 0; h < o.H; ++h)
        test::set(scaled.problem.head_parameters[0], h,
                  get(plain.problem.head_parameters[0], h) * std::exp(shift));
      const Compared want = compare_of(plain, o.S);
      expect_equal(compare_of(scaled, o.S), want, 1e-12);
      const bool invariant = bool(test::close(compare_of(shifted, o.S).o, want.o, 1e-6));
      EXPECT_EQ(invariant, n == 0);
    }
}

TEST(SoftmaxN, PartialRowsMergeToTheWholeRow) {
  const auto accumulate = [](const std::vector<double>& scores) {
    SoftmaxN::Partial<double> partial;
    for (const double s : scores) {
      SoftmaxN::raise(partial, s);
      SoftmaxN::add(partial, SoftmaxN::term(s, partial));
    }
    return partial;
  };
  const double values[] = {0.3, -2};
  const auto parameters = SoftmaxN::load(values);
  const std::vector<double> a{-700, 3, 1}, b{5, -2}, none{}, hidden{-INFINITY, -INFINITY};
  const double want =
      std::log(0.3 + std::exp(-2) + std::exp(3) + std::exp(1) + std::exp(5) + std::exp(-2));
  const auto lse = [&](const auto& x, const auto& y) {
    return SoftmaxN::finish(SoftmaxN::merge(accumulate(x), accumulate(y)), parameters).lse;
  };
  EXPECT_NEAR(lse(a, b), want, 1e-14);
  EXPECT_NEAR(lse(b, a), want, 1e-14);
  EXPECT_EQ(lse(a, none), SoftmaxN::finish(accumulate(a), parameters).lse);
  EXPECT_EQ(lse(hidden, a), lse(a, none));
  EXPECT_NEAR(lse(hidden, none), std::log(0.3 + std::exp(-2)), 1e-15);
}

}  // namespace
}  // namespace quietformer
