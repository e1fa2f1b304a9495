// Without CUDA the optimizer's passes on a GPU say what is missing.
#include <gtest/gtest.h>

#include "core/check.h"
#include "core/parameter.h"
#include "optim/cuda/operations.h"

namespace quietformer {
namespace {

template <class Action>
std::string run_error(const Action& action) {
  try {
    action();
  } catch (const RunError& error) {
    return error.what();
  }
  return "no RunError";
}

TEST(WithoutCuda, OptimizersSayWhatIsMissing) {
  const std::string expected = "built without CUDA (QUIETFORMER_CUDA=OFF)";
  ParameterList parameters(DType::f32, {DeviceType::cuda, 0});
  parameters.add("a", {3}, Init::constant(0));
  EXPECT_EQ(run_error([&] { parameters.commit(); }), "parameters: " + expected);
  EXPECT_EQ(run_error([] { cuda::optimizer_step({}, {}, {}, cuda::StepNumbers{}); }), expected);
  EXPECT_EQ(run_error([] { cuda::sum_of_squares({}, {}, {}); }), expected);
  EXPECT_EQ(run_error([] { cuda::begin_step({}, {}, 0, 0); }), expected);
  EXPECT_EQ(run_error([] { StepState state({DeviceType::cuda, 0}); }), expected);
}

}  // namespace
}  // namespace quietformer
