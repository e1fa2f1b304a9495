// One test per feature that docs/features.md lists, by its name there, for every score and
// normaliser: the option does something, forward is its definition, backward the derivative.
// Their combinations are covered by definition_test.cpp, gradient_test.cpp and flash_test.cpp.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "tests/attention/definition.h"
#include "tests/attention/option_grid.h"

namespace quietformer {
namespace {

using test::AttentionCase;
using test::CaseOptions;
using test::get;
using Edit = std::function<void(CaseOptions&)>;

CaseOptions base(const test::Pair& pair) {
  CaseOptions o;
  o.score = std::get<0>(pair), o.normalizer = std::get<1>(pair);
  o.H = 4, o.Hk = 2, o.L = 5, o.S = 7;
  if (o.score == Score::piecewise) o.threshold = 2;
  for (const HeadParameterInfo& info : find_normalizer(o.normalizer).parameters)
    o.parameters.push_back(info.example);
  return o;
}

/// The derivative of the loss along one random direction of all inputs together, by differences of
/// fourth order, against what backward says.
void expect_slope(AttentionCase& c) {
  AttentionProblem& p = c.problem;
  std::vector<std::pair<Tensor, Tensor>> inputs{{p.q, p.dq},   {p.k, p.dk},   {p.v, p.dv},
                                                {p.q2, p.dq2}, {p.k2, p.dk2}, {p.bias, p.dbias}};
  for (int k = 0; k < kMaxHeadParameters; ++k)
    inputs.emplace_back(p.head_parameters[k], p.d_head_parameters[k]);
  std::erase_if(inputs, [](const auto& input) { return !input.first; });
  c.forward(), c.backward();
  EXPECT_TRUE(c.guards_intact());
  std::vector<OwnedTensor> start, direction;
  double slope = 0, size = 0;
  for (const auto& [value, gradient] : inputs) {
    start.push_back(test::copy_of(value));
    direction.push_back(test::normal(DType::f64, value.shape, std::uint32_t(start.size())));
    for (std::int64_t i = 0; i < value.count(); ++i) {
      const double part = get(direction.back(), i) * get(gradient, i);
      slope += part, size += std::abs(part);
    }
  }
  const auto loss_at = [&](double distance) {
    for (std::size_t t = 0; t < inputs.size(); ++t)
      for (std::int64_t i = 0; i < inputs[t].first.count(); ++i)
        test::set(inputs[t].first, i, get(start[t], i) + distance * get(direction[t], i));
    return c.loss();
  };
  // Between the kinks of a loss that clips.
  const bool clips = find_normalizer(p.normalizer).clips;
  const double h = clips ? 2e-7 : 2e-4;
  const double difference =
      (8 * (loss_at(h) - loss_at(-h)) - (loss_at(2 * h) - loss_at(-2 * h))) / (12 * h);
  EXPECT_NEAR(slope, difference, (clips ? 1e-7 : 1e-8) * size);
}

/// What is added to all scores of a row changes nothing where there is neither sink nor sigmoid.
bool only_shifts(const CaseOptions& o) {
  return o.normalizer == "clipped_softmax" && o.bias.rank == 4 && o.bias[3] == 1;
}

/// Every pair of the build with the options of `common`; `feature` must change the output.
void expect_feature(
    const Edit& feature, const Edit& common = [](CaseOptions&) {}) {
  for (const test::Pair& pair : test::all_pairs()) {
    CaseOptions options = base(pair);
    common(options);
    AttentionCase without(options);
    without.forward();
    feature(options);
    SCOPED_TRACE(test::describe(options));
    AttentionCase with(options);
    expect_slope(with);
    with.forward();
    if (test::oracle_knows(options.normalizer)) test::expect_definition(with, 1e-12);
    const bool same = with.problem.o.shape == without.problem.o.shape &&
                      test::close(with.problem.o, without.problem.o, 1e-3);
    EXPECT_EQ(same, only_shifts(options)) << (same ? "changes nothing" : "changes the output");
  }
}

TEST(Feature, MultiHead) {
  expect_feature([](CaseOptions& o) { o.Hk = 4; });
}
TEST(Feature, MultiQuery) {
  expect_feature([](CaseOptions& o) { o.Hk = 1; });
}
TEST(Feature, GroupedQuery) {
  expect_feature([](CaseOptions& o) { o.H = 6, o.Hk = 2; });
}

TEST(Feature, AnyHeadDimension) {
  for (const std::int64_t D : {1, 16, 40, 111, 256})
    expect_feature([=](CaseOptions& o) { o.D = D, o.seed = 2; });
}
TEST(Feature, ValueDimensionOfItsOwn) {
  for (const std::int64_t Dv : {1, 9, 65}) expect_feature([=](CaseOptions& o) { o.Dv = Dv; });
}
TEST(Feature, LengthsThatNothingDivides) {
  expect_feature([](CaseOptions& o) { o.L = o.S = 67, o.B = 1; });
}
TEST(Feature, MoreKeysThanQueriesAndFewer) {
  expect_feature([](CaseOptions& o) { o.L = 3, o.S = 11; });
  expect_feature([](CaseOptions& o) { o.L = 11, o.S = 3; });
}

TEST(Feature, Causal) {
  expect_feature([](CaseOptions& o) { o.causal = true; });
}
// Bottom-right: the first L - S queries lie before every key.
TEST(Feature, CausalWithMoreQueriesThanKeys) {
  expect_feature([](CaseOptions& o) { o.causal = true; }, [](CaseOptions& o) { o.L = 9, o.S = 4; });
  for (const test::Pair& pair : test::all_pairs()) {
    CaseOptions o = base(pair);
    o.causal = true, o.L = 9, o.S = 4;
    AttentionCase c(o);
    c.forward(), c.backward();
    EXPECT_EQ(test::max_abs(c.problem.o.slice(2, 0, 5)), 0);
    EXPECT_EQ(test::max_abs(c.problem.dq.slice(2, 0, 5)), 0);
    EXPECT_GT(test::max_abs(c.problem.o.slice(2, 5, 1)), 0);
  }
}
TEST(Feature, SlidingWindow) {
  expect_feature([](CaseOptions& o) { o.window = {2, -1}; });
  expect_feature([](CaseOptions& o) { o.window = {-1, 1}; });
  expect_feature([](CaseOptions& o) { o.window = {1, 2}; });
}

const Edit kMask = [](CaseOptions& o) { o.mask = {o.B, o.H, o.L, o.S}; };

TEST(Feature, BooleanMask) {
  expect_feature(kMask);
  expect_feature([](CaseOptions& o) { o.mask = {1, 1, o.L, o.S}; });
}
TEST(Feature, BooleanMaskWithCausal) {
  expect_feature(kMask, [](CaseOptions& o) { o.causal = true; });
  expect_feature([](CaseOptions& o) { o.causal = true; }, kMask);
}
TEST(Feature, KeyPadding) {
  expect_feature([](CaseOptions& o) { o.key_padding = true, o.seed = 3; });
}
// With its gradient, summed over the dimensions that are broadcast.
TEST(Feature, AdditiveBias) {
  for (int full = 0; full < 16; ++full)
    expect_feature([=](CaseOptions& o) {
      o.bias = {full & 1 ? o.B : 1, full & 2 ? o.H : 1, full & 4 ? o.L : 1, full & 8 ? o.S : 1};
    });
}
TEST(Feature, AlibiSlopes) {
  for (const int rank : {1, 2}) expect_feature([=](CaseOptions& o) { o.alibi_rank = rank; });
}
TEST(Feature, Dropout) {
  expect_feature([](CaseOptions& o) { o.dropout = 0.3; });
}

TEST(Feature, PackedSequencesOfAnyLength) {
  expect_feature([](CaseOptions& o) { o.queries = {3, 0, 5, 1}, o.keys = {4, 2, 5, 0}; });
}

TEST(Feature, ParametersPerHead) {
  expect_feature([](CaseOptions& o) {  // AttentionCase gives every head another value
    const auto& infos = find_normalizer(o.normalizer).parameters;
    for (std::size_t k = 0; k < infos.size(); ++k)
      o.parameters[k] += std::isfinite(infos[k].maximum) ? -0.1 : 1.5;
  });
}

// lse, lse_scores and sink_mass with a constant n and a learned sink, row_sum, total_attention: how
// they belong together. Their values are compared with the definition by every test above.
TEST(Feature, RowStatistics) {
  for (const test::Pair& pair : test::all_pairs()) {
    AttentionCase c(base(pair));
    const AttentionProblem& p = c.problem;
    c.forward();
    double rows = 0, keys = 0;
    for (std::int64_t i = 0; i < p.row_sum.count(); ++i) {
      rows += get(p.row_sum, i);
      if (p.normalizer != "softmax_n") continue;
      const std::int64_t head = i / p.q.shape[2] % p.heads();
      const double sink =
          get(p.head_parameters[0], head) + std::exp(get(p.head_parameters[1], head));
      const double denominator = sink + std::exp(get(p.lse_scores, i));
      EXPECT_NEAR(std::exp(get(p.lse, i)), denominator, 1e-12 * denominator);
      EXPECT_NEAR(get(p.sink_mass, i), sink / denominator, 1e-12);
      EXPECT_NEAR(get(p.sink_mass, i) + get(p.row_sum, i), 1, 1e-12);
    }
    for (std::int64_t j = 0; j < p.total_attention.count(); ++j) keys += get(p.total_attention, j);
    EXPECT_NEAR(rows, keys, 1e-12 * rows);
  }
}

// Of the reference, which computes it anyway.
TEST(Feature, AttentionMatrix) {
  for (const test::Pair& pair : test::all_pairs()) {
    CaseOptions o = base(pair);
    o.implementation = "reference", o.H = o.Hk = 2;
    AttentionCase c(o);
    const AttentionProblem& p = c.problem;
    c.forward();
    for (std::int64_t row = 0; row < o.B * o.H * o.L; ++row)
      for (std::int64_t d = 0; d < o.Dv; ++d) {
        double sum = 0;
        for (std::int64_t j = 0; j < o.S; ++j)
          sum += get(p.weights, row * o.S + j) * get(p.v, (row / o.L * o.S + j) * o.Dv + d);
        EXPECT_NEAR(get(p.o, row * o.Dv + d), sum, 1e-14);
      }
  }
}

}  // namespace
}  // namespace quietformer
