#include "optim/schedule.h"

#include <gtest/gtest.h>

#include <cmath>

namespace quietformer {
namespace {

OptimConfig config_of(const std::string& type, std::int64_t warmup, double final) {
  OptimConfig config;
  config.lr = 3e-3;
  config.schedule.type = type;
  config.schedule.warmup = warmup;
  config.schedule.final = final;
  return config;
}

TEST(Schedule, CosineGoldenValues) {
  // The learning rates of the training trace in the fixtures: warm-up 5, 20 steps, final 0.1.
  const Schedule schedule(config_of("cosine", 5, 0.1), 20);
  const double golden[] = {0.0006, 0.0012, 0.0018, 0.0024, 0.003, 0.003, 0.0029704992609906377};
  for (int step = 0; step < 7; ++step) EXPECT_NEAR(schedule.lr(step), golden[step], 1e-15);
  EXPECT_NEAR(schedule.lr(10), 3e-3 * (0.1 + 0.9 * 0.75), 1e-15);  // x = 1/3, cos = 1/2
  EXPECT_NEAR(schedule.lr(15), 3e-3 * (0.1 + 0.9 * 0.25), 1e-15);  // x = 2/3
  EXPECT_NEAR(schedule.lr(20), 3e-4, 1e-15);
  EXPECT_EQ(schedule.lr(1000), schedule.lr(20));
}

TEST(Schedule, LinearAndConstant) {
  const Schedule linear(config_of("linear", 0, 0.2), 10);
  EXPECT_EQ(linear.lr(0), 3e-3);
  EXPECT_NEAR(linear.lr(5), 3e-3 * 0.6, 1e-15);
  EXPECT_NEAR(linear.lr(10), 3e-3 * 0.2, 1e-15);
  EXPECT_NEAR(linear.lr(11), 3e-3 * 0.2, 1e-15);
  const Schedule constant(config_of("constant", 2, 0), 10);
  EXPECT_EQ(constant.lr(0), 1.5e-3);
  for (int step : {1, 2, 9, 10, 99}) EXPECT_EQ(constant.lr(step), 3e-3);
}

TEST(Schedule, WarmupMayOutlastTheRun) {
  const Schedule schedule(config_of("cosine", 100, 0.1), 10);
  for (int step = 0; step < 10; ++step) EXPECT_NEAR(schedule.lr(step), 3e-5 * (step + 1), 1e-15);
  EXPECT_EQ(schedule.lr(99), 3e-3);
  EXPECT_NEAR(schedule.lr(101), 3e-4, 1e-15);
}

}  // namespace
}  // namespace quietformer
