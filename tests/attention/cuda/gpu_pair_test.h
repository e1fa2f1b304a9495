// The fixture of tests that run a (score, normaliser) pair on a GPU.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "core/cuda/memory.h"
#include "tests/attention/option_grid.h"

namespace quietformer::test {

/// Its parameter is the pair. Skips where there is no GPU.
template <class Options>
class GpuPairTest : public testing::TestWithParam<Pair> {
 protected:
  void SetUp() override {
    if (const std::string reason = cuda::unavailable(); !reason.empty()) GTEST_SKIP() << reason;
    options_.score = std::get<0>(GetParam());
    options_.normalizer = std::get<1>(GetParam());
  }
  Options options_;
};

}  // namespace quietformer::test
