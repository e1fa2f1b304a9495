#include "tests/train/hf_fixtures.h"
#include "core/cuda/memory.h"

namespace quietformer {
namespace {

TEST(GpuHfFixtures, LogitsLossHiddenStatesAndGradients) {
  if (const std::string reason = cuda::unavailable(); !reason.empty()) GTEST_SKIP() << reason;
  test::check_fixtures({DType::f32, DType::f64, DType::bf16, DType::f16}, {DeviceType::cuda, 0});
}

}  // namespace
}  // namespace quietformer
