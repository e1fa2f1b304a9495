#include "analysis/weight_statistics.h"

#include <gtest/gtest.h>

#include <cmath>

namespace quietformer {
namespace {

TEST(WeightStatistics, EveryParameterWithOutliersOfItsOwnSigma) {
  ParameterList parameters(DType::f32);
  parameters.add("a", {100, 300}, Init::normal(0.02));
  parameters.add("b", {30000}, Init::constant(0.25));
  parameters.commit();
  parameters.initialise(1);
  float* a = parameters.all()[0].value.get().as<float>();
  for (int i = 0; i < 30000; ++i) a[i] += 1;
  a[5] = 1.2f, a[29999] = 0.8f, a[100] = 1.1f;  // 10, 10 and 5 sigmas from the mean
  Context ctx;
  ctx.threads = 2;
  const auto statistics = weight_statistics(ctx, parameters);
  ASSERT_EQ(statistics.size(), 2u);
  EXPECT_EQ(statistics[0].name, "a");
  EXPECT_EQ(statistics[0].moments.count, 30000);
  EXPECT_NEAR(std::sqrt(statistics[0].moments.variance()), 0.02, 3e-4);
  EXPECT_EQ(statistics[0].moments.outside, 2);
  EXPECT_EQ(statistics[0].moments.max_abs, double(1.2f));
  EXPECT_TRUE(std::isnan(statistics[1].moments.kurtosis()));
  EXPECT_EQ(statistics[1].moments.outside, 0);
  a[7] = NAN;
  EXPECT_EQ(weight_statistics(ctx, parameters)[0].moments.outside, 0);
}

}  // namespace
}  // namespace quietformer
