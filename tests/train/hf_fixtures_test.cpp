#include "tests/train/hf_fixtures.h"

namespace quietformer {
namespace {

TEST(HfFixtures, LogitsLossHiddenStatesAndGradients) {
  test::check_fixtures({DType::f32, DType::f64}, {});
}

}  // namespace
}  // namespace quietformer
