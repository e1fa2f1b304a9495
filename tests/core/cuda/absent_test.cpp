// A build without CUDA answers every wish for a GPU with one clear error.
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "core/buffer.h"
#include "core/cuda/memory.h"
#include "core/gemm.h"

namespace quietformer {
namespace {

std::string run_error(const std::function<void()>& action) {
  try {
    action();
  } catch (const RunError& error) {
    return error.what();
  }
  return "no RunError";
}

TEST(WithoutCuda, EverythingThatNeedsAGpuSaysWhatIsMissing) {
  const Device gpu{DeviceType::cuda, 0};
  const std::string expected = "built without CUDA (QUIETFORMER_CUDA=OFF)";
  EXPECT_TRUE(cuda::gpus().empty());
  EXPECT_EQ(cuda::unavailable(), expected);
  EXPECT_EQ(run_error([&] { Buffer(64, gpu); }), expected);
  EXPECT_EQ(run_error([&] { OwnedTensor(DType::f32, {2}, gpu); }), expected);
  EXPECT_EQ(run_error([&] { cuda::synchronize(gpu); }), expected);
  Context ctx;
  ctx.device = gpu;
  const OwnedTensor a(DType::f32, {2, 2}), c(DType::f32, {2, 2});
  EXPECT_EQ(run_error([&] { gemm(ctx, c, a, Transpose::no, a, Transpose::no); }), expected);
  EXPECT_EQ(run_error([&] { cuda::synchronize(ctx); }), expected);
  EXPECT_EQ(run_error([&] { cuda::copy_async(ctx, c, a); }), expected);
  EXPECT_EQ(run_error([&] { cuda::convert(ctx, c, a); }), expected);
  EXPECT_EQ(run_error([&] { cuda::PinnedTensor(DType::f32, {2}, gpu); }), expected);
  EXPECT_EQ(run_error([&] { cuda::Stream stream(gpu); }), expected);
  EXPECT_EQ(run_error([&] { cuda::Event event(gpu); }), expected);
  EXPECT_EQ(run_error([&] { cuda::Graph(ctx, [] {}); }), expected);
  Arena arena("activations", gpu);
  arena.declare("x", DType::f32, {4});
  EXPECT_EQ(run_error([&] { arena.commit(); }), "activations: " + expected);
}

}  // namespace
}  // namespace quietformer
