// Every operation, one case each (op_case.h), and what their headers promise about aliasing.
#include <gtest/gtest.h>

#include "layers/activation.h"
#include "layers/embedding.h"
#include "layers/norm.h"
#include "layers/residual.h"
#include "layers/rows.h"
#include "tests/layers/execution.h"
#include "tests/support/finite_difference.h"
#include "tests/support/tensors.h"

namespace quietformer {
namespace {

using namespace test;

TEST(Operations, GradientsMatchCentralDifferences) {
  for (const OpCase& c : op_cases(OpSize::small)) {
    Execution run(c, DType::f64);
    run.backward();
    for (std::size_t i = 0; i < c.inputs.size(); ++i)
      expect_gradient(c.name + " " + c.inputs[i].name, run.views[i], run.gradients[i],
                      [&] { return run.loss(); });
    run.expect_guards();
  }
}

TEST(Operations, SinglePrecisionAgreesWithDouble) {
  for (const OpSize size : {OpSize::small, OpSize::large})
    for (const OpCase& c : op_cases(size)) {
      Execution single(c, DType::f32), exact(c, DType::f64);
      for (Execution* run : {&single, &exact})
        run->forward(), run->backward(), run->expect_guards();
      EXPECT_TRUE(close(single.y, exact.y, 2e-5)) << c.name;
      for (std::size_t i = 0; i < c.inputs.size(); ++i)
        EXPECT_TRUE(close(single.gradients[i], exact.gradients[i], 2e-5))
            << c.name << " " << c.inputs[i].name;
    }
}

TEST(Operations, BitwiseIndependentOfThreads) {
  for (const OpCase& c : op_cases(OpSize::large)) {
    Execution one(c, DType::f32, 1);
    one.forward(), one.backward();
    for (const int threads : {2, 3, 7}) {
      Execution many(c, DType::f32, threads);
      many.forward(), many.backward();
      EXPECT_TRUE(same_bits(one.y, many.y)) << c.name;
      for (std::size_t i = 0; i < c.inputs.size(); ++i)
        EXPECT_TRUE(same_bits(one.gradients[i], many.gradients[i]))
            << c.name << " " << c.inputs[i].name;
    }
  }
}

TEST(Gelu, BothFormsMatchClosedFormsInBothTails) {
  const Context ctx;
  std::vector<double> points;
  for (double x = -14; x <= 14; x += 0.01) points.push_back(x);
  const Shape shape{static_cast<std::int64_t>(points.size())};
  const OwnedTensor x = from_values(DType::f32, shape, points), y(DType::f32, shape);
  for (const GeluForm form : {GeluForm::tanh, GeluForm::erf}) {
    gelu_forward(ctx, form, y, x);
    for (std::int64_t i = 0; i < shape.count(); ++i) {
      const double v = x.as<float>()[i];
      const double u = 0.7978845608028654 * (v + 0.044715 * v * v * v);
      const double want = form == GeluForm::erf ? 0.5 * v * std::erfc(-v / std::sqrt(2.0))
                                                : v / (1 + std::exp(-2 * u));
      // Relative, down to where float runs out. An absolute error of the exponent is a relative
      // error of the tail, and the exponent is rounded up to four times on the way (fewer with
      // fma).
      const double exponent = form == GeluForm::erf ? v * v / 2 : 2 * std::abs(u);
      const double bound = 4e-7 + 4 * 0x1p-24 * exponent;
      EXPECT_NEAR(y.as<float>()[i], want, bound * std::abs(want) + 1e-38) << v;
    }
  }
}

TEST(Norm, LongOffsetRowsDoNotCancel) {
  const Context ctx;
  OwnedTensor x = normal(DType::f32, {4, 1000}, 1, 1, 3000), y(DType::f32, {4, 1000});
  const OwnedTensor exact = copy_as(x, DType::f64), want(DType::f64, {4, 1000});
  norm_forward(ctx, NormKind::layernorm, y, {}, x, {}, {}, 1e-5);
  norm_forward(ctx, NormKind::layernorm, want, {}, exact, {}, {}, 1e-5);
  // float keeps 2.4e-4 of 3000: that error of the mean is what remains.
  EXPECT_TRUE(close(y, want, 2e-4));
}

TEST(Norm, ZeroRowsStayFinite) {
  const Context ctx;
  const OwnedTensor x(DType::f64, {2, 8}), y(DType::f64, {2, 8}), dx(DType::f64, {2, 8}),
      mean(DType::f64, {2}), rstd(DType::f64, {2}), dy = normal(DType::f64, {2, 8}, 1);
  for (const NormKind kind : {NormKind::layernorm, NormKind::rmsnorm, NormKind::l2}) {
    norm_forward(ctx, kind, y, {mean, rstd}, x, {}, {}, 1e-12);
    norm_backward_input(ctx, kind, dx, dy, x, {mean, rstd}, {}, 1e-12);
    EXPECT_EQ(max_abs(y), 0);
    EXPECT_TRUE(std::isfinite(max_abs(dx)));
  }
}

TEST(Norm, RootMeanSquareIsOverFeaturesAlone) {
  // semantics.md 4.16: a scale that depends on the batch or the length is another function.
  const Context ctx;
  const OwnedTensor x = from_values(DType::f64, {1, 4}, {1, 2, 3, 4}), y(DType::f64, {1, 4});
  norm_forward(ctx, NormKind::rmsnorm, y, {}, x, {}, {}, 0.5);
  for (int i = 0; i < 4; ++i)
    EXPECT_NEAR(y.as<double>()[i], (i + 1) / std::sqrt(30.0 / 4 + 0.5), 1e-15);
}

TEST(Aliasing, InPlaceEqualsOutOfPlace) {
  const Context ctx;
  const Shape shape{5, 33};
  const OwnedTensor x = normal(DType::f32, shape, 1), d = normal(DType::f32, shape, 2);
  const OwnedTensor weight = normal(DType::f32, {33}, 3), mean(DType::f32, {5}),
                    rstd(DType::f32, {5}), apart(DType::f32, shape), apart2(DType::f32, shape);
  {
    const OwnedTensor in_place = copy_of(x);
    gelu_forward(ctx, GeluForm::erf, apart, x);
    gelu_forward(ctx, GeluForm::erf, in_place, in_place);
    EXPECT_TRUE(same_bits(in_place, apart));
  }
  {
    const OwnedTensor in_place = copy_of(d);
    swiglu_backward(ctx, apart, apart2, d, x, x);
    swiglu_backward(ctx, OwnedTensor(DType::f32, shape), in_place, in_place, x, x);
    EXPECT_TRUE(same_bits(in_place, apart2));
    const OwnedTensor other = copy_of(d);
    swiglu_backward(ctx, other, OwnedTensor(DType::f32, shape), other, x, x);
    EXPECT_TRUE(same_bits(other, apart));
  }
  for (const NormKind kind : {NormKind::layernorm, NormKind::rmsnorm, NormKind::l2}) {
    const OwnedTensor in_place = copy_of(d), normed(DType::f32, shape), same = copy_of(x);
    const NormStatistics saved{mean, rstd};
    norm_forward(ctx, kind, normed, saved, x, weight, {}, 1e-5);
    norm_forward(ctx, kind, same, saved, same, weight, {}, 1e-5);
    EXPECT_TRUE(same_bits(same, normed));
    norm_backward_input(ctx, kind, apart, d, x, saved, weight, 1e-5);
    norm_backward_input(ctx, kind, in_place, in_place, x, saved, weight, 1e-5);
    EXPECT_TRUE(same_bits(in_place, apart));
    // Adding is adding what overwriting would have written.
    const OwnedTensor sum = copy_of(x);
    norm_backward_input(ctx, kind, sum, d, x, saved, weight, 1e-5, Accumulate::add);
    residual_forward(ctx, apart2, x, apart, 1, {});
    EXPECT_TRUE(close(sum, apart2, 1e-6));
  }
  for (const Tensor& gain : {Tensor(), weight.view()}) {
    const OwnedTensor stream = copy_of(x), branch = copy_of(d);
    residual_forward(ctx, apart, x, d, 1.5, gain);
    residual_forward(ctx, stream, stream, d, 1.5, gain);
    residual_forward(ctx, branch, x, branch, 1.5, gain);
    EXPECT_TRUE(same_bits(stream, apart));
    EXPECT_TRUE(same_bits(branch, apart));
  }
}

TEST(Embedding, RefusesTokensOutsideTheVocabulary) {
  Context ctx;
  ctx.threads = 2;
  const OwnedTensor weight(DType::f32, {5, 4}), y(DType::f32, {1, 3, 4});
  for (const double bad : {-1.0, 5.0, 1e9}) {
    const OwnedTensor tokens = from_values(DType::i32, {1, 3}, {0, 4, bad});
    EXPECT_THROW(embedding_forward(ctx, y, tokens, weight, {}), InputError);
  }
}

TEST(Rows, FitTakesTheFirstElementsAndNoMore) {
  Arena arena("test");
  const Slot slot = arena.declare("x", DType::f32, {4, 6});
  arena.commit();
  EXPECT_EQ(fit(slot, {2, 3}).data, slot.get().data);
  EXPECT_TRUE(fit(slot, {2, 3}).contiguous());
  EXPECT_THROW(fit(slot, {5, 5}), std::logic_error);
}

}  // namespace
}  // namespace quietformer
