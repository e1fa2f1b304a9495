// Without CUDA every operation asked to run on a GPU says what is missing.
#include <gtest/gtest.h>

#include "layers/cross_entropy.h"
#include "tests/layers/execution.h"

namespace quietformer {
namespace {

using namespace test;

template <class Action>
std::string run_error(const Action& action) {
  try {
    action();
  } catch (const RunError& error) {
    return error.what();
  }
  return "no RunError";
}

TEST(WithoutCuda, OperationsSayWhatIsMissing) {
  const std::string expected = "built without CUDA (QUIETFORMER_CUDA=OFF)";
  const Device gpu{DeviceType::cuda, 0};
  for (const OpCase& c : op_cases(OpSize::small)) {
    Execution run(c, DType::f32);
    run.ctx.device = gpu;
    EXPECT_EQ(run_error([&] { run.forward(); }), expected) << c.name;
    EXPECT_EQ(run_error([&] { run.backward(); }), expected) << c.name;
  }
  Context ctx;
  ctx.device = gpu;
  const OwnedTensor loss(DType::f64, {2}), row(DType::f32, {1}), logits(DType::f32, {1, 3}),
      targets(DType::i32, {1});
  EXPECT_EQ(run_error([&] { cross_entropy_forward(ctx, loss, row, row, logits, targets); }),
            expected);
  EXPECT_EQ(run_error([&] { cross_entropy_backward(ctx, logits, logits, targets, loss, row, 1); }),
            expected);
}

}  // namespace
}  // namespace quietformer
