// The training trace on the CPU.
#include "tests/train/trace.h"

namespace quietformer {
namespace {

TEST(TrainingTrace, MatchesPyTorchInSinglePrecision) {
  test::run_trace<float>({});
}
TEST(TrainingTrace, MatchesPyTorchInDoublePrecision) {
  test::run_trace<double>({});
}

}  // namespace
}  // namespace quietformer
