#include "optim/clip.h"

#include <gtest/gtest.h>

#include <cmath>

namespace quietformer {
namespace {

class Clip : public testing::Test {
 protected:
  Clip() {
    parameters_.add("a", {300, 301}, Init::constant(0));
    parameters_.add("b", {5}, Init::constant(0));
    parameters_.commit();
    parameters_.initialise(1);
  }
  float* grad(int i) { return parameters_.all()[std::size_t(i)].grad.get().as<float>(); }
  ClipResult measure(double clip, int threads = 1) {
    Context ctx;
    ctx.threads = threads;
    return GradientClip(parameters_, clip).measure(ctx);
  }
  ParameterList parameters_{DType::f32};
};

TEST_F(Clip, NormOverAllParametersAndTorchsScale) {
  grad(0)[90299] = 3;
  grad(1)[4] = -4;
  EXPECT_EQ(measure(0).norm, 5);
  EXPECT_EQ(measure(0).scale, 1);
  EXPECT_EQ(measure(1).scale, 1 / (5 + 1e-6));
  EXPECT_EQ(measure(5.1).scale, 1);
  EXPECT_LT(measure(5).scale, 1);  // torch's 1e-6 shows exactly at the border
}

TEST_F(Clip, ZeroAndHugeGradients) {
  EXPECT_EQ(measure(1).norm, 0);
  EXPECT_EQ(measure(1).scale, 1);
  // Squares that overflow fp32 and those that vanish in it.
  grad(0)[1] = 3e30f, grad(1)[0] = 4e30f;
  EXPECT_NEAR(measure(1).norm, 5e30, 1e24);
  EXPECT_NEAR(measure(1).scale * 5e30, 1, 1e-6);
  grad(0)[1] = 3e-30f, grad(1)[0] = 4e-30f;
  EXPECT_NEAR(measure(1).norm, 5e-30, 1e-36);
}

TEST_F(Clip, NonFiniteGradientsShow) {
  for (float bad : {NAN, INFINITY, -INFINITY}) {
    grad(0)[777] = bad;
    EXPECT_FALSE(std::isfinite(measure(1).norm));
    EXPECT_TRUE(std::isnan(measure(1).scale));
    EXPECT_FALSE(std::isfinite(measure(0).norm));
    EXPECT_EQ(measure(0).scale, 1);
  }
}

TEST_F(Clip, BitwiseIndependentOfThreads) {
  double exact = 0;
  for (int i = 0; i < 300 * 301; ++i) {
    grad(0)[i] = std::sin(0.37f * float(i)) * std::exp(-5e-5f * float(i));
    exact += double(grad(0)[i]) * grad(0)[i];
  }
  const ClipResult one = measure(0.5);
  EXPECT_NEAR(one.norm, std::sqrt(exact), 1e-12 * one.norm);
  for (int threads : {2, 3, 8}) {
    EXPECT_EQ(measure(0.5, threads).norm, one.norm);
    EXPECT_EQ(measure(0.5, threads).scale, one.scale);
  }
}

}  // namespace
}  // namespace quietformer
