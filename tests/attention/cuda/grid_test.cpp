// The twofold rule (design.md, Testing) for `flash` in 16 bits over the shapes of two projects'
// tests: every shape, head dimension and causality of both grids for every pair, forward and
// backward, with the other options by a covering array that the cases go through in turn.
//
// QUIETFORMER_GRID=full runs every case in both types with several draws of the options (ctest
// label gpu_full).
//
// Sources of the grids: FlashSigmoid's test_flash_attn_output and FlagAttention's tests of flash
// attention (facts, not code).
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <string>

#include "attention/attention.h"
#include "core/cuda/memory.h"
#include "tests/attention/cuda/unfused.h"
#include "tests/attention/option_grid.h"

namespace quietformer {
namespace {

constexpr Device kGpu{DeviceType::cuda, 0};

struct GridShape {
  std::int64_t B, H, Hk, L, S, D;  // Hk 0: by the options
};

std::vector<GridShape> grid() {
  std::vector<GridShape> shapes;
  const std::pair<int, int> lengths[] = {{113, 203},   {128, 217},  {113, 211},   {108, 256},
                                         {256, 512},   {512, 256},  {1024, 1024}, {1023, 1024},
                                         {1024, 1023}, {2048, 2048}};
  for (const auto& [L, S] : lengths)
    for (const int D : {32, 40, 59, 64, 96, 111, 128, 160, 192, 224, 256})
      shapes.push_back({4, 9, 0, L, S, D});
  for (const int Hk : {4, 2, 1})
    for (const GridShape& s : {GridShape{2, 4, 4, 512, 612, 128},
                               {2, 4, 4, 1024, 1034, 64},
                               {2, 4, 4, 2048, 2048, 32},
                               {2, 4, 4, 4096, 4096, 16},
                               {2, 4, 4, 4001, 4001, 32},
                               {2, 4, 4, 4001, 4096, 64},
                               {2, 4, 4, 4096, 4000, 128},
                               {1, 2, 2, 8192, 8202, 16},
                               {1, 2, 2, 8192, 8192, 32},
                               {2, 4, 4, 10006, 10, 128}})
      if (s.H % Hk == 0) shapes.push_back({s.B, s.H, Hk, s.L, s.S, s.D});
  return shapes;
}

enum class Layout16 { heads_first, rows_first, packed_slice };

/// What a case draws besides its shape.
struct Drawn : test::CaseOptions {
  DType storage = DType::bf16;
  Layout16 layout16 = Layout16::heads_first;
  int group = 1;
  double std = 1;
  bool has_mask = false, has_bias = false;
  std::pair<double, double> sink{0, -std::numeric_limits<double>::infinity()};
};

template <class V, class F>
test::OptionValues values_of(const std::vector<V>& list, F&& set) {
  test::OptionValues values;
  for (const V& value : list)
    values.push_back([=](test::CaseOptions& o) { set(static_cast<Drawn&>(o), value); });
  return values;
}

std::vector<test::OptionValues> other_options() {
  using Window = std::array<std::int64_t, 2>;
  const std::vector<bool> either{false, true};
  const double nothing = -std::numeric_limits<double>::infinity();
  return {
      values_of<DType>({DType::bf16, DType::f16}, [](Drawn& o, DType t) { o.storage = t; }),
      values_of<Layout16>({Layout16::heads_first, Layout16::rows_first, Layout16::packed_slice},
                          [](Drawn& o, Layout16 layout) { o.layout16 = layout; }),
      values_of<int>({1, 3, 9}, [](Drawn& o, int group) { o.group = group; }),
      values_of<double>({1, 2, 3, 4}, [](Drawn& o, double std) { o.std = std; }),
      values_of<Window>({{-1, -1}, {-1, -1}, {100, 30}, {300, -1}},
                        [](Drawn& o, Window window) { o.window = window; }),
      values_of<int>({0, 0, 1, 2}, [](Drawn& o, int rank) { o.alibi_rank = rank; }),
      values_of<bool>(either, [](Drawn& o, bool on) { o.has_mask = on; }),
      values_of<bool>(either, [](Drawn& o, bool on) { o.key_padding = on; }),
      values_of<bool>(either, [](Drawn& o, bool on) { o.has_bias = on; }),
      values_of<double>({0, 0, 0.2, 0.5}, [](Drawn& o, double p) { o.dropout = p; }),
      values_of<std::pair<double, double>>(
          {{0, nothing}, {1, nothing}, {4, nothing}, {0, 0.5}, {0.5, 3}},
          [](Drawn& o, std::pair<double, double> sink) { o.sink = sink; }),
  };
}

/// One problem twice on the GPU: f64 by the reference, 16 bits by flash.
class GridCase {
 public:
  GridCase(const GridShape& shape, const Drawn& drawn) : o_(drawn) {
    ctx_.device = kGpu;
    ctx_.mode = Mode::train;
    const std::int64_t kv_heads = shape.Hk > 0 ? shape.Hk : shape.H / o_.group;
    const Shape query{shape.B, shape.H, shape.L, shape.D}, key{shape.B, kv_heads, shape.S, shape.D},
        row{shape.B, shape.H, shape.L};
    exact_.score = o_.score, exact_.normalizer = find_normalizer(o_.normalizer).name;
    exact_.scale = default_scale(o_.score, shape.D);
    exact_.threshold = o_.score == Score::piecewise
                           ? (shape.L < shape.S ? shape.L / 2 : shape.L - shape.S / 2)
                           : 0;
    exact_.causal = o_.causal, exact_.window = o_.window;
    exact_.dropout.probability = o_.dropout;
    exact_.dropout.key = stream_key(o_.seed, RandomPurpose::attention_dropout, 3, 7);
    exact_.dropout.first_sample = 5;
    fast_ = exact_;

    add(&AttentionProblem::q, query, true);
    add(&AttentionProblem::k, key, true);
    add(&AttentionProblem::v, key, true);
    add(&AttentionProblem::o, query, false);
    add(&AttentionProblem::do_, query, true);
    add(&AttentionProblem::dq, query, false);
    add(&AttentionProblem::dk, key, false);
    add(&AttentionProblem::dv, key, false);
    if (o_.score == Score::piecewise) {
      add(&AttentionProblem::q2, query, true);
      add(&AttentionProblem::k2, key, true);
      add(&AttentionProblem::dq2, query, false);
      add(&AttentionProblem::dk2, key, false);
    }
    exact_.row_state = own(DType::f64, row);
    fast_.row_state = own(DType::f32, row);
    exact_.weights = own(DType::f64, {shape.B, shape.H, shape.L, shape.S});

    // Broadcast over heads and over queries, in turn.
    if (o_.has_bias)
      both(&AttentionProblem::bias, {shape.B, 1, shape.L, shape.S},
           [this](const Tensor& t) { test::fill_normal(ctx_, t, ++stream_, 1, DType::bf16); });
    if (o_.alibi_rank > 0)
      both(&AttentionProblem::alibi_slopes,
           o_.alibi_rank == 1 ? Shape{shape.H} : Shape{shape.B, shape.H},
           [this](const Tensor& t) { cuda::fill(ctx_, t, 0.03125 * double(1 + o_.seed % 8)); });
    if (o_.has_mask) {
      fast_.mask = exact_.mask = own(DType::u8, {1, shape.H, 1, shape.S});
      test::fill_mask(ctx_, exact_.mask, ++stream_, 0.8);
    }
    if (o_.key_padding) {
      fast_.key_padding = exact_.key_padding = own(DType::u8, {shape.B, shape.S});
      test::fill_mask(ctx_, exact_.key_padding, ++stream_, 0.9);
    }
    const bool softmax = o_.normalizer == "softmax_n", clips = o_.normalizer == "clipped_softmax";
    for (std::size_t i = 0; i < find_normalizer(o_.normalizer).parameters.size(); ++i) {
      // b = -ln S: the small weights that sigmoid attention starts with. gamma = -4 / S.
      const double value = softmax ? (i == 0 ? o_.sink.first : o_.sink.second)
                           : clips ? (i == 0 ? double(float(-4 / double(shape.S))) : 1)
                                   : double(float(-std::log(double(shape.S))));
      exact_.head_parameters[i] = own(DType::f64, {shape.H});
      fast_.head_parameters[i] = own(DType::f32, {shape.H});
      cuda::fill(ctx_, exact_.head_parameters[i], value);
      cuda::fill(ctx_, fast_.head_parameters[i], value);
    }
  }

  void check() {
    run("reference", exact_);
    run("flash", fast_);
    const test::Unfused unfused = test::unfused(ctx_, exact_, o_.storage);
    expect("o", fast_.o, exact_.o, unfused.o);
    expect("dv", fast_.dv, exact_.dv, unfused.dv);
    expect("dq", fast_.dq, exact_.dq, unfused.dq[0]);
    expect("dk", fast_.dk, exact_.dk, unfused.dk[0]);
    if (o_.score != Score::piecewise) return;
    expect("dq2", fast_.dq2, exact_.dq2, unfused.dq[1]);
    expect("dk2", fast_.dk2, exact_.dk2, unfused.dk[1]);
  }

  /// A pair, a type or a head dimension that this build left out.
  bool built() const {
    const AttentionImplementation& flash = implementation("flash");
    return !flash.why_not(fast_, Direction::forward) && !flash.why_not(fast_, Direction::backward);
  }

 private:
  static const AttentionImplementation& implementation(std::string_view name) {
    for (const AttentionImplementation* each : implementations())
      if (each->name() == name) return *each;
    throw std::logic_error("no such implementation");
  }

  Tensor own(DType dtype, const Shape& shape) { return owned_.emplace_back(dtype, shape, kGpu); }

  /// A (B, heads, rows, features) tensor of `storage` as the layout has it.
  Tensor own_rows(const Shape& s) {
    switch (o_.layout16) {
      case Layout16::heads_first:
        return own(o_.storage, s);
      case Layout16::rows_first:
        return own(o_.storage, {s[0], s[2], s[1], s[3]}).transpose(1, 2);
      case Layout16::packed_slice:
        return own(o_.storage, {s[0], s[2], s[1], s[3] + 192}).slice(3, 64, s[3]).transpose(1, 2);
    }
    return {};
  }

  void add(Tensor AttentionProblem::*member, const Shape& shape, bool input) {
    exact_.*member = own(DType::f64, shape);
    fast_.*member = own_rows(shape);
    if (!input) return;
    test::fill_normal(ctx_, exact_.*member, o_.seed * 64 + ++stream_,
                      member == &AttentionProblem::do_ ? 1 : o_.std, o_.storage);
    test::narrow(ctx_, fast_.*member, exact_.*member);
  }

  template <class Fill>
  void both(Tensor AttentionProblem::*member, const Shape& shape, const Fill& fill) {
    exact_.*member = own(DType::f64, shape);
    fast_.*member = own(DType::f32, shape);
    fill(exact_.*member);
    const Shape flat{1, 1, 1, shape.count()};
    test::narrow(ctx_, (fast_.*member).reshape(flat), (exact_.*member).reshape(flat));
  }

  void run(std::string_view name, AttentionProblem& problem) {
    const AttentionImplementation& chosen = choose(name, problem);
    const OwnedTensor workspace(DType::u8, {workspace_bytes(chosen, ctx_, problem)}, kGpu);
    problem.workspace = workspace;
    chosen.forward(ctx_, problem);
    chosen.backward(ctx_, problem);
    cuda::synchronize(kGpu);
    problem.workspace = {};
  }

  void expect(const char* name, const Tensor& found, const Tensor& exact, const Tensor& unfused) {
    const double error = test::max_error(ctx_, found, exact),
                 allowed = test::max_error(ctx_, unfused, exact);
    ASSERT_TRUE(std::isfinite(allowed)) << name << " of the unfused computation";
    EXPECT_LE(error, 2 * allowed + 1e-5) << name << "; the unfused computation has " << allowed;
  }

  Drawn o_;
  Context ctx_;
  std::uint32_t stream_ = 0;
  std::deque<OwnedTensor> owned_;
  AttentionProblem exact_, fast_;
};

std::string describe(const GridShape& s, const Drawn& o) {
  return test::describe(o) + " B=" + std::to_string(s.B) + " H=" + std::to_string(s.H) +
         " Hk=" + std::to_string(s.Hk > 0 ? s.Hk : s.H / o.group) + " L=" + std::to_string(s.L) +
         " S=" + std::to_string(s.S) + " D=" + std::to_string(s.D) + " " +
         std::string(name_of(o.storage)) + " layout=" + std::to_string(int(o.layout16)) +
         " std=" + std::to_string(o.std) + " mask=" + std::to_string(o.has_mask) +
         " bias=" + std::to_string(o.has_bias) + " n=" + std::to_string(o.sink.first) +
         " sink=" + std::to_string(o.sink.second);
}

class FlashGrid : public testing::TestWithParam<test::Pair> {};

TEST_P(FlashGrid, KeepsTheTwofoldRule) {
  if (const std::string reason = cuda::unavailable(); !reason.empty()) GTEST_SKIP() << reason;
  const char* const wish = std::getenv("QUIETFORMER_GRID");
  const bool full = wish != nullptr && std::string_view(wish) == "full";
  const auto options = other_options();
  const auto rows = test::covering_array(options, 2);
  std::size_t cases = 0, left_out = 0;
  std::uint32_t seed = 0;
  const auto run = [&](const GridShape& shape, Drawn drawn) {
    SCOPED_TRACE(describe(shape, drawn));
    GridCase one(shape, drawn);
    if (!one.built()) {
      ++left_out;
      return;
    }
    one.check();
    ++cases;
  };
  for (const GridShape& shape : grid())
    for (const bool causal : {false, true})
      for (int draw = 0; draw < (full ? 4 : 1); ++draw) {
        Drawn drawn;
        drawn.score = std::get<0>(GetParam());
        drawn.normalizer = std::get<1>(GetParam());
        const std::vector<int>& row = rows[seed % rows.size()];
        for (std::size_t i = 0; i < options.size(); ++i)
          options[i][static_cast<std::size_t>(row[i])](drawn);
        drawn.causal = causal;
        drawn.seed = ++seed;
        run(shape, drawn);
        if (full) {
          drawn.storage = drawn.storage == DType::bf16 ? DType::f16 : DType::bf16;
          run(shape, drawn);
        }
        if (HasFatalFailure()) return;
      }
  std::printf("%zu cases", cases);
  std::printf(left_out > 0 ? ", %zu are not in this build\n" : "\n", left_out);
}

INSTANTIATE_TEST_SUITE_P(All, FlashGrid, testing::ValuesIn(test::all_pairs()), test::pair_name);

}  // namespace
}  // namespace quietformer
