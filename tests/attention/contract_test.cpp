// The normaliser contract holds more than today's list: clipped softmax (Bondarenko et al.,
// "Quantizable transformers", 2023) needs the finished row before its weights, a sum over weights
// for its gradient, and has gradients from every element. And what violates the contract is not
// accepted.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "attention/cuda/packed.h"
#include "attention/flash_pair.h"
#include "attention/normalizer/softmax_n.h"
#include "attention/reference_pair.h"
#include "attention/score/dot.h"
#include "tests/attention/attention_case.h"
#include "tests/support/finite_difference.h"

namespace quietformer {
namespace {

/// clip((zeta - gamma) softmax(s) + gamma, 0, 1).
struct ClippedSoftmax : SoftmaxN {
  static constexpr std::string_view name = "clipped_softmax";
  static constexpr std::array<HeadParameterInfo, 2> parameters{
      {{"gamma", 0, -0.08, -1}, {"zeta", 1, 1.2, 1}}};
  static constexpr bool weights_need_final_row = true;
  static constexpr DeltaRule delta_rule = DeltaRule::weight_sum;
  static constexpr bool has_element_gradients = true;
  static constexpr bool has_row_gradients = false;

  template <class A>
  struct Parameters {
    A gamma, zeta;
  };
  template <class A>
  static Parameters<A> load(const A* value) {
    return {value[0], value[1]};
  }
  static constexpr double kNoSink[2] = {0, -math::kInfinity<double>};

  template <class A>
  static Row<A> finish(const Partial<A>& partial, const Parameters<A>&) {
    return SoftmaxN::finish(partial, SoftmaxN::load(kNoSink));
  }
  template <class A>
  static RowOutputs<A> outputs(const Partial<A>& partial, const Row<A>& row, const Parameters<A>&) {
    return SoftmaxN::outputs(partial, row, SoftmaxN::load(kNoSink));
  }
  template <class T, class A>
  static T softmax(T score, const Row<A>& row) {
    return SoftmaxN::weight(score, row, SoftmaxN::Parameters<A>{});
  }
  template <class T, class A>
  static T weight(T score, const Row<A>& row, const Parameters<A>& p) {
    const T w = T(p.zeta - p.gamma) * softmax(score, row) + T(p.gamma);
    return w < 0 ? T(0) : (w > 1 ? T(1) : w);
  }
  template <class T>
  static T inside(const Element<T>& e) {  // the gradient of the weight where it is not clipped
    return e.weight > 0 && e.weight < 1 ? e.dweight : T(0);
  }
  template <class T, class A>
  static T delta_term(const Element<T>& e, const Row<A>& row, const Parameters<A>&) {
    return inside(e) * softmax(e.score, row);
  }
  template <class T, class A>
  static T dscore(const Element<T>& e, T delta, const Row<A>& row, const Parameters<A>& p) {
    return T(p.zeta - p.gamma) * softmax(e.score, row) * (inside(e) - delta);
  }
  template <class T, class A>
  static T element_gradient(int k, const Element<T>& e, T, const Row<A>& row,
                            const Parameters<A>&) {
    const T soft = softmax(e.score, row);
    return inside(e) * (k == 0 ? 1 - soft : soft);
  }
};
static_assert(NormalizerPolicy<ClippedSoftmax>);

/// An AttentionCase run by a pair that is not on the list.
struct ClippedCase {
  test::AttentionCase c;
  Tensor gamma, zeta;
  bool flash;

  explicit ClippedCase(const test::CaseOptions& options)
      : c(options), flash(options.implementation == "flash") {
    gamma = c.problem.head_parameters[0], zeta = c.problem.head_parameters[1];
  }
  void forward() {
    flash ? FlashPair<Dot, ClippedSoftmax>::forward(c.ctx, c.problem)
          : ReferencePair<Dot, ClippedSoftmax>::forward(c.ctx, c.problem);
  }
  void backward() {
    flash ? FlashPair<Dot, ClippedSoftmax>::backward(c.ctx, c.problem)
          : ReferencePair<Dot, ClippedSoftmax>::backward(c.ctx, c.problem);
  }
  double loss() {
    forward();
    double sum = 0;
    for (std::int64_t i = 0; i < c.problem.o.count(); ++i)
      sum += test::get(c.problem.o, i) * test::get(c.problem.do_, i);
    return sum;
  }
};

TEST(NormalizerContract, ClippedSoftmaxForwardAndGradients) {
  for (const bool general : {false, true}) {
    test::CaseOptions options;
    options.L = 6, options.S = 8, options.Hk = 1, options.causal = general;
    options.dropout = general ? 0.3 : 0, options.bias = {1, 2, 6, 8};
    options.parameters = {0, 0};
    ClippedCase run(options);
    const AttentionProblem& p = run.c.problem;
    test::fill(run.gamma, -0.08), test::fill(run.zeta, 1.2);
    run.forward(), run.backward();
    int zeros = 0;
    for (std::int64_t row = 0; p.weights && row < p.lse.count(); ++row)
      for (std::int64_t j = 0; j < 8; ++j) {
        const double w = test::get(p.weights, row * 8 + j);
        zeros += w == 0 && !general;
        EXPECT_TRUE(w >= 0 && w <= 1);
      }
    if (!general && p.weights) {
      EXPECT_GT(zeros, 10);  // clipping happens
    }
    test::DifferenceOptions o;
    o.step = 1e-6, o.tolerance = 1e-5;  // small: no element may cross a clip point
    const auto loss = [&] { return run.loss(); };
    test::expect_gradient("dq", p.q, p.dq, loss, o);
    test::expect_gradient("dk", p.k, p.dk, loss, o);
    test::expect_gradient("dv", p.v, p.dv, loss, o);
    test::expect_gradient("dbias", p.bias, p.dbias, loss, o);
    test::expect_gradient("dgamma", run.gamma, p.d_head_parameters[0], loss, o);
    test::expect_gradient("dzeta", run.zeta, p.d_head_parameters[1], loss, o);
  }
}

// Tasks that add to the same element of dbias must run in one chunk, or threads would race.
TEST(ReferenceChunks, TasksThatShareTheBiasGradientAreTogether) {
  for (const std::int64_t b_dim : {1, 3})
    for (const std::int64_t h_dim : {1, 4}) {
      test::CaseOptions options;
      options.B = 3, options.H = 4, options.Hk = 2;
      options.bias = {b_dim, h_dim, 4, 5};
      const test::AttentionCase c(options);
      const BackwardChunks chunks(c.problem);
      std::vector<int> chunk_of(3 * 2, -1);
      for (std::int64_t chunk = 0; chunk < chunks.count(); ++chunk)
        chunks.for_each_task(chunk, [&](std::int64_t sequence, std::int64_t kv_head) {
          int& slot = chunk_of[std::size_t(sequence * 2 + kv_head)];
          EXPECT_EQ(slot, -1) << "a task runs twice";
          slot = int(chunk);
        });
      for (int a = 0; a < 6; ++a)
        for (int b = 0; b < 6; ++b) {
          EXPECT_GE(chunk_of[std::size_t(a)], 0) << "a task never runs";
          const bool shares = (b_dim == 1 || a / 2 == b / 2) && (h_dim == 1 || a % 2 == b % 2);
          EXPECT_EQ(chunk_of[std::size_t(a)] == chunk_of[std::size_t(b)], shares);
        }
    }
}

// Every part of the contract is asked for: a policy that lacks one is no NormalizerPolicy.
struct LacksName : SoftmaxN {
  static constexpr int name = 0;
};
struct LacksTerm : SoftmaxN {
  static constexpr int term = 0;
};
struct LacksMerge : SoftmaxN {
  static constexpr int merge = 0;
};
struct LacksScale : SoftmaxN {
  static constexpr int scale = 0;
};
struct LacksWeight : SoftmaxN {
  static constexpr int weight = 0;
};
struct LacksDscore : SoftmaxN {
  static constexpr int dscore = 0;
};
struct LacksRowGradients : SoftmaxN {
  static constexpr int row_gradients = 0;
};
struct LacksElementGradient : SoftmaxN {
  static constexpr bool has_element_gradients = true;
};
struct LacksDeltaTerm : SoftmaxN {
  static constexpr DeltaRule delta_rule = DeltaRule::weight_sum;
};
struct TooManyParameters : SoftmaxN {
  static constexpr std::array<HeadParameterInfo, kMaxHeadParameters + 1> parameters{};
};

template <class... Ns>
constexpr bool none_is_a_policy = (!NormalizerPolicy<Ns> && ...);
static_assert(
    none_is_a_policy<LacksName, LacksTerm, LacksMerge, LacksScale, LacksWeight, LacksDscore,
                     LacksRowGradients, LacksElementGradient, LacksDeltaTerm, TooManyParameters>);

// The host knows how many sequences there are and their length in all; the slots must do for any.
TEST(PackedTiles, EveryTileHasOneSlotAndSpareOnesStartBehindTheirSequence) {
  const std::vector<std::vector<int>> packs{{64},         {0},           {1, 0, 150, 64, 3, 20},
                                            {0, 0, 5, 0}, {63, 65, 128}, std::vector<int>(40, 1),
                                            {1000, 0, 1}, {0, 0, 0}};
  for (const std::vector<int>& lengths : packs)
    for (const int rows : {1, 32, 64, 128}) {
      std::vector<std::int32_t> cu{0};
      for (const int length : lengths) cu.push_back(cu.back() + length);
      const int sequences = int(lengths.size());
      std::vector<std::vector<int>> slots_of(lengths.size());
      const std::int64_t slots = cuda::tile_slots(cu.back(), rows, true, sequences);
      for (int slot = 0; slot < slots; ++slot) {
        const auto [sequence, tile] = cuda::packed_tile(cu.data(), sequences, rows, slot);
        ASSERT_TRUE(sequence >= 0 && sequence < sequences && tile >= 0) << slot;
        std::vector<int>& count = slots_of[std::size_t(sequence)];
        count.resize(std::max(count.size(), std::size_t(tile) + 1));
        ++count[std::size_t(tile)];
      }
      for (int b = 0; b < sequences; ++b) {
        const std::vector<int>& count = slots_of[std::size_t(b)];
        EXPECT_GE(std::int64_t(count.size()),
                  cuda::tile_slots(lengths[std::size_t(b)], rows, false, 1));
        EXPECT_TRUE(std::all_of(count.begin(), count.end(), [](int n) { return n == 1; }));
        for (int row = cu[std::size_t(b)]; row < cu[std::size_t(b) + 1]; ++row)
          EXPECT_EQ(cuda::owner_of(cu.data(), sequences, row), b);
      }
    }
}

}  // namespace
}  // namespace quietformer
