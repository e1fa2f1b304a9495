// `flash` at the sizes where its tiles, strips and splits begin and end, against the f64 reference;
// its bits on any number of threads; its memory.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "core/math.h"
#include "tests/attention/option_grid.h"

namespace quietformer {
namespace {

using test::AttentionCase;
using test::CaseOptions;
using test::OptionValues;

/// A case as it is described in the list of options, before a pair makes numbers of it.
struct FlashOptions : CaseOptions {
  enum class Scores { negative, positive, tiny, mixed } scores = Scores::mixed;
  double n = 0, sink_logit = -math::kInfinity<double>;
};

CaseOptions finish(FlashOptions o) {
  const bool unit = o.score == Score::cosine;
  if (!unit) o.groups = 1;
  if (o.score != Score::piecewise) o.threshold = 0;
  // Scores of mean -30 or 30, or below 1e-3, or from -20 to 20.
  switch (o.scores) {
    case FlashOptions::Scores::negative:
    case FlashOptions::Scores::positive:
      if (unit) o.groups = 1, o.scale = 33;
      o.mean = 1, o.std = 0.3, o.k_std = 0.3;
      o.k_mean = (o.scores == FlashOptions::Scores::negative ? -1 : 1) *
                 (unit ? 1 : 30 / std::sqrt(double(o.D)));
      break;
    case FlashOptions::Scores::tiny:
      if (unit) o.scale = 1e-4;
      o.std = 1e-4;
      break;
    case FlashOptions::Scores::mixed:
      if (unit) o.scale = 20;
      o.std = 5;
  }
  if (o.normalizer == "softmax_n") o.parameters = {o.n, o.sink_logit};
  if (o.normalizer == "sigmoid") o.parameters = {o.n > 1 ? 0.5 : -3.5};
  if (o.normalizer == "clipped_softmax") o.parameters = {o.n > 1 ? -0.004 : -0.05, 1.1};
  return o;
}

template <class F>
std::function<void(CaseOptions&)> edit(F&& f) {
  return [f](CaseOptions& o) { f(static_cast<FlashOptions&>(o)); };
}

OptionValues lengths(const std::vector<std::pair<int, int>>& pairs) {
  OptionValues values;
  for (const auto& [L, S] : pairs)
    values.push_back(edit([L = L, S = S](FlashOptions& o) { o.L = L, o.S = S; }));
  return values;
}

template <class V, class F>
OptionValues values_of(const std::vector<V>& list, F&& set) {
  OptionValues values;
  for (const V& value : list) values.push_back(edit([=](FlashOptions& o) { set(o, value); }));
  return values;
}

OptionValues biases() {
  const auto shape = [](bool b, bool h, bool i, bool j) {
    return edit([=](FlashOptions& o) {
      o.bias = {b ? o.B : 1, h ? o.H : 1, i ? o.L : 1, j ? o.S : 1};
    });
  };
  return {edit([](FlashOptions&) {}),      shape(true, true, true, true),
          shape(false, false, true, true), shape(true, false, false, true),
          shape(false, true, true, false), shape(false, false, false, false)};
}

std::vector<OptionValues> tile_options() {
  const auto flag = [](auto set) { return OptionValues{edit([](FlashOptions&) {}), edit(set)}; };
  std::vector<OptionValues> options{
      lengths({{1, 1},
               {2, 2},
               {63, 63},
               {64, 64},
               {65, 65},
               {127, 127},
               {128, 128},
               {129, 129},
               {513, 513},
               {1, 513},
               {65, 129},
               {129, 64},
               {300, 2},
               {64, 0}}),
      values_of<int>({16, 40, 64, 80, 128, 192, 256}, [](FlashOptions& o, int D) { o.D = D; }),
      values_of<int>({0, 1, 3}, [](FlashOptions& o, int more) { o.Dv = o.D + 24 * more - 8; }),
      values_of<int>({1, 3, 8}, [](FlashOptions& o, int group) { o.B = 1, o.Hk = 1, o.H = group; }),
      flag([](FlashOptions& o) {
        if (o.L * o.S <= 129 * 129) o.B = 2, o.Hk = 2, o.H = 2 * o.H;
      }),
      values_of<FlashOptions::Scores>(
          {FlashOptions::Scores::negative, FlashOptions::Scores::positive,
           FlashOptions::Scores::tiny, FlashOptions::Scores::mixed},
          [](FlashOptions& o, FlashOptions::Scores scores) { o.scores = scores; }),
      values_of<double>({0, 1e-6, 1, 4, 1e4}, [](FlashOptions& o, double n) { o.n = n; }),
      values_of<double>({-math::kInfinity<double>, -20, 0, 100},
                        [](FlashOptions& o, double theta) { o.sink_logit = theta; }),
      values_of<Score>(test::all_scores(), [](FlashOptions& o, Score score) { o.score = score; }),
      {},
      biases(),
      flag([](FlashOptions& o) { o.causal = true; }),
      values_of<std::array<std::int64_t, 2>>(
          {{-1, -1}, {50, -1}, {7, 70}, {0, 0}},
          [](FlashOptions& o, std::array<std::int64_t, 2> window) { o.window = window; }),
      {edit([](FlashOptions&) {}), edit([](FlashOptions& o) {
         o.mask = {1, 1, o.L, o.S};
       }),
       edit([](FlashOptions& o) {
         o.mask = {o.B, o.H, 1, o.S};
       })},
      flag([](FlashOptions& o) { o.key_padding = true; }),
      flag([](FlashOptions& o) { o.alibi_rank = 2; }),
      flag([](FlashOptions& o) { o.dropout = 0.3; }),
      flag([](FlashOptions& o) { o.layout = test::Layout::rows_first; }),
      values_of<int>({0, 20, -3}, [](FlashOptions& o, int threshold) {
        o.threshold = threshold, o.groups = threshold > 0 ? 4 : 1;
      })};
  for (const NormalizerInfo& info : normalizers())
    options[9].push_back(edit([name = info.name](FlashOptions& o) { o.normalizer = name; }));
  return options;
}

bool is_gradient(const std::string& name) {
  return name[0] == 'd' || name[0] == 'g';
}

double largest_error(const Tensor& a, const Tensor& b) {
  double error = 0;
  for (std::int64_t i = 0; i < a.count(); ++i) {
    const double difference = test::get(a, i) - test::get(b, i);
    if (std::isfinite(difference)) error = std::max(error, std::abs(difference));
  }
  return error;
}

/// The largest norm of a row of (B, heads, rows, features).
double largest_norm(const Tensor& tensor) {
  double largest = 0;
  for (std::int64_t i = 0, D = tensor.shape[3]; i < tensor.count(); i += D) {
    double squares = 0;
    for (std::int64_t d = 0; d < D; ++d) {
      const double x = test::get(tensor, i + d);
      squares += x * x;
    }
    largest = std::max(largest, squares);
  }
  return std::sqrt(largest);
}

/// A bound, by norms, of the terms whose sum is a number of dbias or dscale, without their signs; 0
/// for other results. dbias sums dS = P (dP - delta) and dscale dS times the score before its
/// scale, with |dP| and |delta| <= |do| |v| / (1 - p). Where a row sees one key, dS is 0 and what
/// is summed are the roundings of P dP and P delta.
double terms_behind(const std::string& name, const AttentionProblem& p) {
  if (name != "dbias" && name != "dscale") return 0;
  const double rows = double(p.row_sum.count());
  const double row = 2 * test::max_abs(p.row_sum) * largest_norm(p.do_) * largest_norm(p.v) /
                     (1 - p.dropout.probability);
  if (name == "dbias")
    return rows / double(p.bias.shape[0] * p.bias.shape[1] * p.bias.shape[2]) * row;
  double score = p.groups;
  if (p.score != Score::cosine) score = largest_norm(p.q) * largest_norm(p.k);
  if (p.score == Score::piecewise) score = std::max(score, largest_norm(p.q2) * largest_norm(p.k2));
  return rows * row * score;
}

/// Runs flash in f64 and f32 and compares every result with the f64 reference. f32 may be off by
/// 2e-5 of the tensor's largest value, and where that is less, by twice what the reference in f32
/// is off: scores of 30 and gradients that cancel cost any f32 computation as much. What cancels
/// wholly may be off by 1e-9 of its terms, whose bound is wide.
void expect_reference(CaseOptions options) {
  SCOPED_TRACE(test::describe(options) + " D=" + std::to_string(options.D));
  const auto run = [&](const char* implementation, DType dtype) {
    CaseOptions o = options;
    o.implementation = implementation, o.dtype = dtype;
    auto c = std::make_unique<AttentionCase>(o);
    c->ctx.threads = 2;
    c->problem.weights = Tensor();
    c->provide_workspace();
    // What a result is not written to shows.
    for (const auto& [name, tensor] : c->results()) test::fill(tensor, 7);
    c->forward(), c->backward();
    EXPECT_TRUE(c->guards_intact());
    return c;
  };
  const auto exact = run("reference", DType::f64), naive = run("reference", DType::f32);
  const auto want = exact->results(), rounded = naive->results();
  double largest = 0;
  for (const auto& [name, tensor] : want)
    if (is_gradient(name)) largest = std::max(largest, test::max_abs(tensor));
  for (const DType dtype : {DType::f64, DType::f32}) {
    const auto flash = run("flash", dtype);
    const auto got = flash->results();
    ASSERT_EQ(got.size(), want.size());
    for (std::size_t i = 0; i < want.size(); ++i) {
      const auto& [name, tensor] = want[i];
      const double high = test::max_abs(tensor);
      double limit = (dtype == DType::f64 ? 1e-12 : 2e-5) * high;
      if (is_gradient(name)) limit += (dtype == DType::f64 ? 1e-13 : 1e-6) * largest;
      limit += (dtype == DType::f64 ? 1e-17 : 1e-9) * terms_behind(name, exact->problem);
      // Of a single number the naive error is one draw, not the largest of many.
      const double times = tensor.count() > 1 ? 2 : 5;
      if (dtype == DType::f32)
        limit = std::max({limit, times * largest_error(rounded[i].second, tensor),
                          double(std::numeric_limits<float>::min())});
      EXPECT_TRUE(test::close(got[i].second, tensor, high > 0 ? limit / high : 0))
          << name_of(dtype) << " " << name;
    }
  }
}

// In parts, so that they can run side by side.
constexpr int kParts = 4;
class FlashPart : public testing::TestWithParam<int> {};

TEST_P(FlashPart, AgreesWithTheReferenceOverSizesScoresAndOptions) {
  int cases = 0;
  const std::vector<OptionValues> options = tile_options();
  for (const std::vector<int>& row : test::covering_array(options, 5)) {
    FlashOptions o;
    o.seed = std::uint32_t(++cases);
    if (cases % kParts != GetParam()) continue;
    for (std::size_t i = 0; i < options.size(); ++i) options[i][std::size_t(row[i])](o);
    expect_reference(finish(o));
  }
  EXPECT_TRUE(HasFailure() || cases > 90) << cases;
}

INSTANTIATE_TEST_SUITE_P(Flash, FlashPart, testing::Range(0, kParts));

// More tiles than one in every direction, in f32 too: 1025 and 4096, more queries and more keys.
TEST(Flash, AgreesWithTheReferenceOverManyTiles) {
  std::uint32_t seed = 100;
  const auto run = [&](int L, int S, int D, int H, auto&& set) {
    FlashOptions o;
    o.B = 1, o.H = H, o.Hk = 1, o.L = L, o.S = S, o.D = o.Dv = D, o.seed = ++seed;
    set(o);
    expect_reference(finish(o));
  };
  run(1025, 1025, 64, 3, [](FlashOptions& o) { o.causal = true, o.n = 1; });
  run(1025, 1025, 40, 1, [](FlashOptions& o) {
    o.score = Score::piecewise, o.threshold = 300, o.dropout = 0.2, o.bias = {1, 1, 1025, 1025};
  });
  run(1025, 1025, 256, 1, [](FlashOptions& o) {
    o.score = Score::cosine, o.normalizer = "sigmoid", o.window = {600, 200}, o.alibi_rank = 1;
  });
  run(513, 4096, 128, 1, [](FlashOptions& o) {
    o.causal = true, o.key_padding = true, o.n = 1e-6;
    o.scores = FlashOptions::Scores::negative;
  });
  run(4096, 513, 80, 1, [](FlashOptions& o) {
    o.causal = true, o.sink_logit = 0, o.scores = FlashOptions::Scores::positive;
    o.bias = {1, 1, 4096, 1};
  });
  run(4096, 4096, 16, 1, [](FlashOptions& o) { o.causal = true, o.bias = {1, 1, 1, 4096}; });
}

// Borders of chunks and the order of sums depend on the problem alone.
TEST(Flash, SameBitsForAnyNumberOfThreads) {
  for (const Score score : test::all_scores())
    for (const NormalizerInfo& info : normalizers())
      for (const Shape& bias : {Shape{}, Shape{1, 1, 1, 1030}, Shape{1, 2, 517, 1}}) {
        CaseOptions o;
        o.implementation = "flash";
        o.score = score, o.normalizer = info.name, o.dtype = DType::f32;
        o.H = 2, o.Hk = 1, o.L = 517, o.S = 1030, o.D = o.Dv = 24, o.bias = bias;
        o.causal = true, o.dropout = 0.1, o.key_padding = true;
        o.threshold = score == Score::piecewise ? 200 : 0;
        for (const HeadParameterInfo& parameter : info.parameters)
          o.parameters.push_back(parameter.example);
        AttentionCase one(o);
        one.forward(), one.backward();
        for (const int threads : {2, 5, 16}) {
          AttentionCase many(o);
          many.ctx.threads = threads;
          many.provide_workspace();
          many.forward(), many.backward();
          EXPECT_TRUE(many.guards_intact());
          const auto a = one.results(), b = many.results();
          for (std::size_t i = 0; i < a.size(); ++i)
            EXPECT_TRUE(test::same_bits(a[i].second, b[i].second))
                << a[i].first << " on " << threads << " threads, " << name_of(score) << " "
                << info.name;
        }
      }
}

// Rows of a pair that no (query, key) takes from it are not multiplied, not even by zero: NaN there
// reaches no result (but dscale, a product with all of q).
TEST(Flash, PiecewiseTilesThatNeedOnePairComputeOne) {
  for (const NormalizerInfo& info : normalizers())
    for (const bool causal : {true, false}) {
      CaseOptions o;
      o.implementation = "flash", o.score = Score::piecewise, o.normalizer = info.name;
      o.B = 1, o.H = 2, o.Hk = 1, o.L = o.S = 600, o.D = o.Dv = 16, o.causal = causal;
      // The pair that is used least: far, of keys 150 to 599 behind, or near, of 101 to 599 ahead.
      o.threshold = causal ? 150 : -100;
      const std::int64_t reach = causal ? 150 : 101;
      for (const HeadParameterInfo& parameter : info.parameters)
        o.parameters.push_back(parameter.example);
      AttentionCase clean(o), poisoned(o);
      const AttentionProblem& p = poisoned.problem;
      clean.problem.dscale = poisoned.problem.dscale = {};
      const double nan = std::numeric_limits<double>::quiet_NaN();
      // Far queries come late and far keys early; near ones, ahead of the diagonal, the other way
      // round. 64 rows of distance: strips and vectors are computed whole.
      const std::int64_t rows = reach - 64;
      test::fill((causal ? p.q2 : p.q).slice(2, causal ? 0 : 600 - rows, rows), nan);
      test::fill((causal ? p.k2 : p.k).slice(2, causal ? 600 - rows : 0, rows), nan);
      clean.forward(), clean.backward(), poisoned.forward(), poisoned.backward();
      const auto want = clean.results(), got = poisoned.results();
      for (std::size_t i = 0; i < want.size(); ++i)
        EXPECT_TRUE(test::same_bits(got[i].second, want[i].second))
            << want[i].first << (causal ? ", far" : ", near");
    }
}

std::int64_t workspace_of(std::int64_t length) {
  AttentionProblem p;
  Context ctx;
  ctx.threads = 2;
  p.q = p.k = p.v = p.o = Tensor(nullptr, DType::f32, {1, 8, length, 64});
  p.row_state = Tensor(nullptr, DType::f32, {1, 8, length});
  p.scale = 0.125, p.causal = true;
  return workspace_bytes(choose("flash", p), ctx, p);
}

TEST(Flash, MemoryGrowsWithTheLengthNotItsSquare) {
  for (std::int64_t length = 1024; length <= 32768; length *= 2) {
    const std::int64_t operand = 8 * length * 64 * 4;
    std::cout << "workspace at L = " << length << ": " << workspace_of(length) / double(operand)
              << " times q" << std::endl;
    EXPECT_LT(workspace_of(2 * length), 2 * workspace_of(length) + 1);
    EXPECT_LT(workspace_of(length), 10 * operand + (std::int64_t{1} << 21));
  }
}

// And it runs: a window keeps the work small, every buffer is guarded.
TEST(Flash, RunsLongSequences) {
  CaseOptions o;
  o.implementation = "flash", o.dtype = DType::f32;
  o.B = 1, o.H = o.Hk = 1, o.L = o.S = 32768, o.D = o.Dv = 16;
  o.causal = true, o.window = {100, -1};
  AttentionCase c(o);
  c.forward(), c.backward();
  EXPECT_TRUE(c.guards_intact());
  // Row i of a longer sequence is row i of its last 101 keys.
  CaseOptions tail = o;
  tail.implementation = "reference", tail.L = 1, tail.S = 101;
  AttentionCase last(tail);
  const AttentionProblem &p = c.problem, &t = last.problem;
  for (std::int64_t d = 0; d < 16; ++d) test::set(t.q, d, test::get(p.q, (32768 - 1) * 16 + d));
  for (std::int64_t d = 0; d < 101 * 16; ++d) {
    test::set(t.k, d, test::get(p.k, (32768 - 101) * 16 + d));
    test::set(t.v, d, test::get(p.v, (32768 - 101) * 16 + d));
  }
  last.forward();
  EXPECT_TRUE(test::close(p.o.slice(2, 32767, 1), t.o, 2e-5));
}

}  // namespace
}  // namespace quietformer
