// One attention problem with all its memory, made from options: inputs from a seed, every output
// guarded against overruns.
#pragma once

#include <cstdlib>
#include <deque>
#include <string>
#include <vector>

#include "attention/attention.h"
#include "tests/attention/device_run.h"
#include "tests/support/tensors.h"

namespace quietformer::test {

/// The implementation that tests run by default: the environment variable
/// QUIETFORMER_ATTENTION_IMPLEMENTATION, or the reference. The suite runs its attention tests once
/// per implementation.
inline std::string implementation_under_test() {
  const char* name = std::getenv("QUIETFORMER_ATTENTION_IMPLEMENTATION");
  return name != nullptr ? name : "reference";
}

/// By its name alone.
inline const AttentionImplementation& find_implementation(std::string_view name) {
  for (const AttentionImplementation* implementation : implementations())
    if (implementation->name() == name) return *implementation;
  throw std::logic_error("no such implementation");
}

enum class Layout { heads_first, rows_first };  // (B,H,T,D) or (B,T,H,D) in memory

struct CaseOptions {
  std::string implementation = implementation_under_test();
  Score score = Score::dot;
  std::string normalizer = "softmax_n";
  std::vector<double> parameters;  // per-head parameters; fewer than there are: the rest is absent
  DType dtype = DType::f64;
  std::int64_t B = 2, H = 2, Hk = 2, L = 4, S = 5, D = 4, Dv = 3;
  double scale = 0;  // 0: the default of the score
  int groups = 1;
  std::int64_t threshold = 0;
  bool causal = false;
  std::array<std::int64_t, 2> window{-1, -1};
  Shape mask, bias;  // rank 0: none
  bool key_padding = false;
  int alibi_rank = 0;  // 0: none, 1: (H), 2: (B, H)
  double dropout = 0;
  std::vector<int> queries, keys;  // lengths of packed sequences; then B, L and S follow from them
  Layout layout = Layout::heads_first;
  std::uint32_t seed = 1;
  double std = 1, mean = 0;      // of q
  double k_std = 1, k_mean = 0;  // of k
  double far_size = 1;           // of q2 and k2: times those of q and k
};

class AttentionCase {
 public:
  AttentionProblem problem;
  Context ctx;

  explicit AttentionCase(const CaseOptions& options) : o_(options) {
    ctx.mode = Mode::train;
    if (!o_.queries.empty()) pack();
    AttentionProblem& p = problem;
    inputs();
    options_and_masks();
    const NormalizerInfo& info = find_normalizer(o_.normalizer);
    p.normalizer = info.name;
    for (std::size_t k = 0; k < info.parameters.size(); ++k) {
      if (k < o_.parameters.size()) {
        p.head_parameters[k] = make(accumulation(), {o_.H});
        for (std::int64_t h = 0; h < o_.H; ++h)
          set(p.head_parameters[k], h, float(o_.parameters[k] * (1 + 0.25 * double(h))));
      }
      p.d_head_parameters[k] = make(accumulation(), {o_.H});
    }
    outputs(info.row_normalised);
    provide_workspace();
  }
  AttentionCase(const AttentionCase&) = delete;
  AttentionCase& operator=(const AttentionCase&) = delete;

  /// Call again after a change of options that needs more scratch.
  void provide_workspace() {
    problem.workspace = Tensor();
    workspace_ = GuardedTensor(DType::u8, {workspace_bytes(implementation(), ctx, problem)});
    problem.workspace = workspace_;
  }

  const AttentionImplementation& implementation() const {
    return choose(o_.implementation, problem);
  }
  /// On the device under test; see device_run.h.
  void forward() const { run(Direction::forward); }
  void backward() const { run(Direction::backward); }

  /// sum(o * do), after a forward.
  double loss() const {
    forward();
    double sum = 0;
    for (std::int64_t i = 0; i < problem.o.count(); ++i)
      sum += get(problem.o, i) * get(problem.do_, i);
    return sum;
  }

  /// Every tensor that forward or backward write, by name; absent ones left out.
  std::vector<std::pair<std::string, Tensor>> results() const {
    const AttentionProblem& p = problem;
    std::vector<std::pair<std::string, Tensor>> all{{"o", p.o},
                                                    {"row_state", p.row_state},
                                                    {"lse", p.lse},
                                                    {"lse_scores", p.lse_scores},
                                                    {"sink_mass", p.sink_mass},
                                                    {"row_sum", p.row_sum},
                                                    {"total_attention", p.total_attention},
                                                    {"weights", p.weights},
                                                    {"dq", p.dq},
                                                    {"dk", p.dk},
                                                    {"dv", p.dv},
                                                    {"dq2", p.dq2},
                                                    {"dk2", p.dk2},
                                                    {"dbias", p.dbias},
                                                    {"dscale", p.dscale}};
    for (int k = 0; k < kMaxHeadParameters; ++k)
      all.emplace_back("gradient of head parameter " + std::to_string(k), p.d_head_parameters[k]);
    std::erase_if(all, [](const auto& entry) { return entry.second.shape.rank == 0; });
    return all;
  }

  bool guards_intact() const {
    return workspace_.intact() && std::all_of(owned_.begin(), owned_.end(),
                                              [](const GuardedTensor& t) { return t.intact(); });
  }

  Tensor make(DType dtype, const Shape& shape) { return owned_.emplace_back(dtype, shape).view(); }

 private:
  /// (B, heads, rows, features) in the case's memory order.
  Tensor make_rows(std::int64_t heads, std::int64_t rows, std::int64_t features) {
    if (o_.layout == Layout::heads_first) return make(o_.dtype, {o_.B, heads, rows, features});
    return make(o_.dtype, {o_.B, rows, heads, features}).transpose(1, 2);
  }

  Tensor normal_rows(std::int64_t heads, std::int64_t rows, std::int64_t features, double std = 1,
                     double mean = 0) {
    const Tensor tensor = make_rows(heads, rows, features);
    fill_normal(tensor, next_seed(), std, mean);
    return tensor;
  }

  std::uint32_t next_seed() { return o_.seed * 1000 + seeds_++; }

  void pack() {
    const auto cumulate = [&](const std::vector<int>& lengths, std::int64_t& total) {
      const Tensor cu = make(DType::i32, {std::int64_t(lengths.size()) + 1});
      total = 0;
      set(cu, 0, 0);
      for (std::size_t b = 0; b < lengths.size(); ++b) set(cu, b + 1, double(total += lengths[b]));
      return cu;
    };
    problem.cu_seqlens_q = cumulate(o_.queries, o_.L);
    problem.cu_seqlens_k = cumulate(o_.keys, o_.S);
    o_.B = 1;
  }

  void run(Direction direction) const {
    if (gpu_under_test())
      copies_.run(find_implementation(o_.implementation), ctx, problem, direction);
    else if (direction == Direction::forward)
      implementation().forward(ctx, problem);
    else
      implementation().backward(ctx, problem);
  }

  void inputs() {
    AttentionProblem& p = problem;
    p.q = normal_rows(o_.H, o_.L, o_.D, o_.std, o_.mean);
    p.k = normal_rows(o_.Hk, o_.S, o_.D, o_.k_std, o_.k_mean);
    p.v = normal_rows(o_.Hk, o_.S, o_.Dv);
    p.do_ = normal_rows(o_.H, o_.L, o_.Dv);
    if (o_.score == Score::piecewise) {
      const double f = o_.far_size;
      p.q2 = normal_rows(o_.H, o_.L, o_.D, f * o_.std, f * o_.mean);
      p.k2 = normal_rows(o_.Hk, o_.S, o_.D, f * o_.k_std, f * o_.k_mean);
      p.dq2 = make_rows(o_.H, o_.L, o_.D);
      p.dk2 = make_rows(o_.Hk, o_.S, o_.D);
    }
  }

  void options_and_masks() {
    AttentionProblem& p = problem;
    p.score = o_.score;
    p.scale = o_.scale != 0 ? o_.scale : default_scale(o_.score, o_.D);
    p.groups = o_.groups;
    p.threshold = o_.threshold;
    p.causal = o_.causal;
    p.window = o_.window;
    if (o_.mask.rank != 0) p.mask = make_mask(o_.mask, -0.7);
    if (o_.key_padding)
      p.key_padding = make_mask({p.batch(), p.packed() ? longest_keys() : o_.S}, -0.9);
    if (o_.bias.rank != 0) {
      p.bias = make(accumulation(), o_.bias);
      fill_normal(p.bias, next_seed());
      p.dbias = make(accumulation(), o_.bias);
    }
    if (o_.alibi_rank != 0) {
      p.alibi_slopes =
          make(accumulation(), o_.alibi_rank == 1 ? Shape{o_.H} : Shape{p.batch(), o_.H});
      fill_normal(p.alibi_slopes, next_seed(), 0.1, 0.3);
    }
    p.dropout = {o_.dropout, stream_key(o_.seed, RandomPurpose::attention_dropout, 3, 17), 5};
  }

  DType accumulation() const { return accumulation_dtype(o_.dtype); }

  std::int64_t longest_keys() const { return *std::max_element(o_.keys.begin(), o_.keys.end()); }

  /// Bytes that keep about the normals above `cut`; the kept value varies: nonzero is what counts.
  Tensor make_mask(const Shape& shape, double cut) {
    const OwnedTensor noise = normal(DType::f64, shape, next_seed());
    const Tensor mask = make(DType::u8, shape);
    for (std::int64_t i = 0; i < mask.count(); ++i)
      set(mask, i, get(noise, i) > cut ? double(1 + i % 3) : 0);
    return mask;
  }

  void outputs(bool row_normalised) {
    AttentionProblem& p = problem;
    const Shape rows{o_.B, o_.H, o_.L};
    p.o = make_rows(o_.H, o_.L, o_.Dv);
    p.row_sum = make(accumulation(), rows);
    p.total_attention = make(accumulation(), {o_.B, o_.H, o_.S});
    if (!p.packed() && o_.implementation == "reference")
      p.weights = make(accumulation(), {o_.B, o_.H, o_.L, o_.S});
    if (row_normalised) {
      p.row_state = make(accumulation(), rows);
      p.lse = make(accumulation(), rows);
      p.lse_scores = make(accumulation(), rows);
      p.sink_mass = make(accumulation(), rows);
    }
    p.dq = make_rows(o_.H, o_.L, o_.D);
    p.dk = make_rows(o_.Hk, o_.S, o_.D);
    p.dv = make_rows(o_.Hk, o_.S, o_.Dv);
    p.dscale = make(accumulation(), {1});
  }

  CaseOptions o_;
  std::uint32_t seeds_ = 0;
  std::deque<GuardedTensor> owned_;
  GuardedTensor workspace_;
  mutable GpuCopies copies_;
};

inline void expect_same_bits(const AttentionCase& a, const AttentionCase& b) {
  const auto left = a.results(), right = b.results();
  ASSERT_EQ(left.size(), right.size());
  for (std::size_t i = 0; i < left.size(); ++i)
    EXPECT_TRUE(same_bits(left[i].second, right[i].second)) << left[i].first;
}

/// close() for every result. The allowance of a gradient is never less than that of the largest
/// gradient, since gradients that ought to vanish are sums that cancel, and dscale's, the longest
/// such sum, is thirty times that.
inline void expect_close_results(const std::vector<std::pair<std::string, Tensor>>& found,
                                 const std::vector<std::pair<std::string, Tensor>>& expected,
                                 double tolerance) {
  ASSERT_EQ(found.size(), expected.size());
  double largest = 0;
  for (const auto& [name, tensor] : expected)
    if (name[0] == 'd' && name != "dscale") largest = std::max(largest, max_abs(tensor));
  for (std::size_t i = 0; i < found.size(); ++i) {
    const auto& [name, tensor] = expected[i];
    const bool gradient = name[0] == 'd' || name[0] == 'g';
    const double floor = gradient ? largest * (name == "dscale" ? 30 : 1) : 0,
                 own = max_abs(tensor);
    const double raised = own < floor && own > 0 ? tolerance * floor / own : tolerance;
    if (own == 0 && gradient)
      ASSERT_LE(max_abs(found[i].second), tolerance * floor) << name;
    else
      ASSERT_TRUE(close(found[i].second, tensor, raised)) << name;
  }
}

}  // namespace quietformer::test
