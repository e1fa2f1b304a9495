// Properties that hold for every score and normaliser of the build.
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "tests/attention/hidden_keys.h"
#include "tests/attention/option_grid.h"

namespace quietformer {
namespace {

using test::AttentionCase;
using test::CaseOptions;
using test::expect_same_bits;
using test::get;

class AttentionProperty : public testing::TestWithParam<test::Pair> {
 protected:
  CaseOptions base() const {
    CaseOptions o;
    o.score = std::get<0>(GetParam());
    o.normalizer = std::get<1>(GetParam());
    for (const HeadParameterInfo& info : find_normalizer(o.normalizer).parameters)
      o.parameters.push_back(info.example);
    if (o.score == Score::piecewise) o.threshold = 2;
    return o;
  }

  template <class F>
  void for_each_combination(F&& f) const {
    const auto& [score, normalizer] = GetParam();
    test::for_each_combination(score, normalizer, 21, [&](const CaseOptions& options) {
      SCOPED_TRACE(test::describe(options));
      if (!HasFatalFailure()) f(options);
    });
  }
};

void run(const AttentionCase& c) {
  c.forward();
  c.backward();
  EXPECT_TRUE(c.guards_intact());
}

TEST_P(AttentionProperty, SameBitsForAnyNumberOfThreads) {
  for_each_combination([](CaseOptions options) {
    options.dtype = DType::f32;
    AttentionCase one(options);
    run(one);
    AttentionCase many(options);
    many.ctx.threads = 3;
    many.provide_workspace();
    for (const auto& [name, tensor] : many.results()) test::fill(tensor, 7);  // must be overwritten
    run(many);
    expect_same_bits(many, one);
  });
}

TEST_P(AttentionProperty, SameBitsForAnyMemoryLayout) {
  for_each_combination([](CaseOptions options) {
    options.dtype = DType::f32;
    options.layout = test::Layout::heads_first;
    AttentionCase contiguous(options);
    run(contiguous);
    options.layout = test::Layout::rows_first;
    AttentionCase strided(options);
    run(strided);
    expect_same_bits(strided, contiguous);
  });
}

// Outputs to 2e-5 of the tensor's maximum. Gradients of these tiny problems are often differences
// that cancel to nothing (one visible key, n = 0), so theirs is 1e-4 of the larger of the tensor's
// maximum and a tenth of the largest gradient.
TEST_P(AttentionProperty, FloatAgreesWithDouble) {
  for_each_combination([](CaseOptions options) {
    options.dtype = DType::f64;
    AttentionCase exact(options);
    run(exact);
    options.dtype = DType::f32;
    AttentionCase rounded(options);
    run(rounded);
    const auto want = exact.results(), got = rounded.results();
    const auto is_gradient = [](const std::string& name) {
      return name[0] == 'd' || name[0] == 'g';
    };
    double largest = 0;
    for (const auto& [name, tensor] : want)
      if (is_gradient(name)) largest = std::max(largest, test::max_abs(tensor));
    for (std::size_t i = 0; i < want.size(); ++i) {
      const auto& [name, tensor] = want[i];
      const double high = test::max_abs(tensor);
      if (is_gradient(name) && high == 0) {
        EXPECT_LE(test::max_abs(got[i].second), 1e-5 * largest) << name;
        continue;
      }
      const double limit = is_gradient(name) ? 1e-4 * std::max(1.0, 0.1 * largest / high) : 2e-5;
      EXPECT_TRUE(test::close(got[i].second, tensor, high > 0 ? limit : 0)) << name;
    }
  });
}

TEST_P(AttentionProperty, FutureKeysDoNotReachThePast) {
  CaseOptions options = base();
  options.causal = true, options.L = 70, options.S = 90, options.dtype = DType::f32;
  AttentionCase before(options), after(options);
  run(before);
  const std::int64_t edited = 45;  // first key that changes; rows i + S - L < edited must not
  for (const Tensor& t : {after.problem.k, after.problem.v, after.problem.k2})
    if (t)
      for (std::int64_t i = 0; i < t.count(); ++i)
        if (i / t.shape[3] % t.shape[2] >= edited) test::set(t, i, 50 - get(t, i));
  run(after);
  const std::int64_t rows = edited - (options.S - options.L);
  const auto past = [&](const AttentionCase& c) { return c.problem.o.slice(2, 0, rows); };
  EXPECT_TRUE(test::same_bits(past(before), past(after)));
  EXPECT_TRUE(
      test::same_bits(before.problem.dq.slice(2, 0, rows), after.problem.dq.slice(2, 0, rows)));
  EXPECT_FALSE(
      test::same_bits(before.problem.o.slice(2, rows, 1), after.problem.o.slice(2, rows, 1)));
}

TEST_P(AttentionProperty, KeysOutsideTheWindowDoNotMatter) {
  CaseOptions options = base();
  options.window = {3, 2}, options.L = 80, options.S = 75, options.dtype = DType::f32;
  const std::int64_t edited = 37;
  AttentionCase before(options), after(options);
  run(before);
  for (const Tensor& t : {after.problem.k, after.problem.v, after.problem.k2})
    if (t)
      for (std::int64_t i = 0; i < t.count(); ++i)
        if (i / t.shape[3] % t.shape[2] == edited) test::set(t, i, 3 - get(t, i));
  run(after);
  for (std::int64_t i = 0; i < options.L; ++i) {
    const std::int64_t position = i + options.S - options.L;
    const bool sees = edited >= position - 3 && edited <= position + 2;
    EXPECT_EQ(
        bool(test::same_bits(before.problem.o.slice(2, i, 1), after.problem.o.slice(2, i, 1))),
        !sees)
        << i;
  }
}

// Pitfall: "no key" must not become "all keys alike", and no NaN may come out of -inf - -inf.
TEST_P(AttentionProperty, RowsThatSeeNothingGiveZeroAndZeroGradient) {
  for (const bool by_bias : {false, true})
    for (const bool sink : {false, true})
      for (const DType dtype : {DType::f32, DType::f64}) {
        CaseOptions options = base();
        options.dtype = dtype, options.L = 6;
        if (!sink) options.parameters.clear();
        (by_bias ? options.bias : options.mask) = {1, 1, options.L, options.S};
        AttentionCase c(options);
        const std::int64_t hidden = 2;
        const Tensor hide = by_bias ? c.problem.bias : c.problem.mask;
        for (std::int64_t i = 0; i < hide.count(); ++i)
          test::set(hide, i,
                    by_bias ? (i / options.S == hidden ? -INFINITY : 0)
                            : (i / options.S == hidden ? 0 : 1));
        run(c);
        for (const auto& [name, tensor] : c.results())
          EXPECT_FALSE(std::isnan(test::max_abs(tensor))) << name;
        const auto row_of = [&](const Tensor& t) { return test::max_abs(t.slice(2, hidden, 1)); };
        EXPECT_EQ(row_of(c.problem.o), 0);
        EXPECT_EQ(row_of(c.problem.dq), 0);
        if (c.problem.weights) {
          EXPECT_EQ(row_of(c.problem.weights), 0);
        }
        EXPECT_GT(test::max_abs(c.problem.dq.slice(2, hidden + 1, 1)), 0);
        // The gradients are those of a problem without the row.
        test::fill(c.problem.do_.slice(2, hidden, 1), 100);
        const OwnedTensor dk = test::copy_of(c.problem.dk), dv = test::copy_of(c.problem.dv);
        std::vector<OwnedTensor> parameters;
        for (const Tensor& t : c.problem.d_head_parameters)
          if (t) parameters.push_back(test::copy_of(t));
        run(c);
        EXPECT_TRUE(test::same_bits(dk, c.problem.dk));
        EXPECT_TRUE(test::same_bits(dv, c.problem.dv));
        for (std::size_t k = 0; k < parameters.size(); ++k)
          EXPECT_TRUE(test::same_bits(parameters[k], c.problem.d_head_parameters[k]));
      }
}

TEST_P(AttentionProperty, KeysThatNobodySeesGetZeroGradient) {
  CaseOptions options = base();
  options.key_padding = true;
  AttentionCase c(options);
  test::fill(c.problem.key_padding, 1);
  test::fill(c.problem.key_padding.slice(1, 3, 2), 0);
  run(c);
  EXPECT_EQ(test::max_abs(c.problem.dk.slice(2, 3, 2)), 0);
  EXPECT_EQ(test::max_abs(c.problem.dv.slice(2, 3, 2)), 0);
  EXPECT_EQ(test::max_abs(c.problem.total_attention.slice(2, 3, 2)), 0);
}

TEST_P(AttentionProperty, TakesAnyNumberWhereAKeyIsHidden) {
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16}) {
    SCOPED_TRACE(name_of(dtype));
    CaseOptions options = base();
    options.dtype = dtype;
    test::expect_hidden_keys_not_to_matter(options, run);
  }
}

TEST_P(AttentionProperty, GroupedHeadsAreRepeatedKeyHeads) {
  CaseOptions options = base();
  options.H = 6, options.Hk = 2, options.causal = true, options.L = 70, options.S = 75;
  AttentionCase grouped(options);
  options.Hk = 6;
  AttentionCase repeated(options);
  const AttentionProblem &g = grouped.problem, &r = repeated.problem;
  const auto repeat = [&](const Tensor& to, const Tensor& from) {
    for (std::int64_t b = 0; from && b < options.B; ++b)
      for (std::int64_t h = 0; h < 6; ++h) {
        const Tensor target = to.slice(0, b, 1).slice(1, h, 1);
        const Tensor source = from.slice(0, b, 1).slice(1, h / 3, 1);
        for (std::int64_t i = 0; i < target.count(); ++i) test::set(target, i, get(source, i));
      }
  };
  repeat(r.k, g.k), repeat(r.v, g.v), repeat(r.k2, g.k2);
  for (const auto& [to, from] : {std::pair{r.q, g.q}, {r.q2, g.q2}, {r.do_, g.do_}})
    for (std::int64_t i = 0; from && i < from.count(); ++i) test::set(to, i, get(from, i));
  run(grouped), run(repeated);
  EXPECT_TRUE(test::same_bits(g.o, r.o));
  EXPECT_TRUE(test::same_bits(g.dq, r.dq));
  const OwnedTensor sum(DType::f64, g.dk.shape);
  for (std::int64_t b = 0; b < options.B; ++b)
    for (std::int64_t h = 0; h < 6; ++h) {
      const Tensor part = r.dk.slice(0, b, 1).slice(1, h, 1);
      const Tensor total = sum.view().slice(0, b, 1).slice(1, h / 3, 1);
      for (std::int64_t i = 0; i < part.count(); ++i)
        test::set(total, i, get(total, i) + get(part, i));
    }
  EXPECT_TRUE(test::close(g.dk, sum, 1e-14));
}

TEST_P(AttentionProperty, PackedSequencesAreSequencesAlone) {
  CaseOptions options = base();
  options.queries = {5, 0, 70, 1, 3}, options.keys = {7, 4, 66, 9, 0};
  options.H = 4, options.causal = true, options.dropout = 0.2;
  AttentionCase packed(options);
  run(packed);
  const AttentionProblem& p = packed.problem;
  std::int64_t first_query = 0, first_key = 0;
  for (std::size_t b = 0; b < options.queries.size(); ++b) {
    CaseOptions single = options;
    single.queries.clear(), single.keys.clear();
    single.B = 1, single.L = options.queries[b], single.S = options.keys[b];
    AttentionCase alone(single);
    AttentionProblem& a = alone.problem;
    a.dropout = p.dropout;
    a.dropout.first_sample += std::uint32_t(b);
    const auto rows = [&](const Tensor& t, bool query) {
      return query ? t.slice(2, first_query, single.L) : t.slice(2, first_key, single.S);
    };
    const auto take = [&](const Tensor& to, const Tensor& from, bool query) {
      if (!from) return;
      const Tensor part = rows(from, query);
      for (std::int64_t i = 0; i < part.count(); ++i) test::set(to, i, get(part, i));
    };
    take(a.q, p.q, true), take(a.q2, p.q2, true), take(a.do_, p.do_, true);
    take(a.k, p.k, false), take(a.k2, p.k2, false), take(a.v, p.v, false);
    run(alone);
    // On a GPU cuBLAS adds up in an order that depends on how many keys there are in all.
    const auto same = [](const Tensor& x, const Tensor& y) {
      return test::gpu_under_test() ? test::close(x, y, 1e-10) : test::same_bits(x, y);
    };
    EXPECT_TRUE(same(rows(p.o, true), a.o)) << b;
    EXPECT_TRUE(same(rows(p.dq, true), a.dq)) << b;
    EXPECT_TRUE(same(rows(p.dk, false), a.dk)) << b;
    EXPECT_TRUE(same(rows(p.dv, false), a.dv)) << b;
    first_query += single.L, first_key += single.S;
  }
}

// q, k and v (and their gradients) as slices of one (B, T, 3, H, D) buffer.
TEST_P(AttentionProperty, PackedQkvGivesTheSameBits) {
  CaseOptions options = base();
  options.L = options.S = 66, options.Dv = options.D, options.causal = true;
  options.dtype = DType::f32;
  AttentionCase plain(options), packed(options);
  AttentionProblem& p = packed.problem;
  const Shape qkv{options.B, options.L, 3, options.H, options.D};
  const Tensor values = packed.make(options.dtype, qkv), grads = packed.make(options.dtype, qkv);
  const auto part = [&](const Tensor& all, int which) {
    Tensor slice = all.slice(2, which, 1);  // (B, T, 1, H, D)
    Tensor view = slice;
    view.shape = {options.B, options.H, options.L, options.D};
    view.stride = {slice.stride[0], slice.stride[3], slice.stride[1], 1};
    return view;
  };
  int which = 0;
  for (Tensor* t : {&p.q, &p.k, &p.v}) {
    const Tensor view = part(values, which++);
    for (std::int64_t i = 0; i < t->count(); ++i) test::set(view, i, get(*t, i));
    *t = view;
  }
  p.dq = part(grads, 0), p.dk = part(grads, 1), p.dv = part(grads, 2);
  run(plain), run(packed);
  expect_same_bits(packed, plain);
}

TEST_P(AttentionProperty, DropoutActsInTrainingOnlyAndKeepsStatistics) {
  CaseOptions options = base();
  options.L = 30, options.S = 40;
  AttentionCase without(options);
  run(without);
  options.dropout = 0.4;
  AttentionCase with(options), evaluated(options);
  run(with);
  evaluated.ctx.mode = Mode::evaluate;
  run(evaluated);
  expect_same_bits(evaluated, without);
  for (const auto& member : {&AttentionProblem::row_sum, &AttentionProblem::total_attention,
                             &AttentionProblem::weights, &AttentionProblem::lse})
    if (with.problem.*member) {
      EXPECT_TRUE(test::same_bits(with.problem.*member, without.problem.*member));
    }
  EXPECT_FALSE(test::same_bits(with.problem.o, without.problem.o));
}

INSTANTIATE_TEST_SUITE_P(AllPairs, AttentionProperty, testing::ValuesIn(test::all_pairs()),
                         test::pair_name);

}  // namespace
}  // namespace quietformer
