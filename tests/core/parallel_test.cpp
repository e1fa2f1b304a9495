#include "core/parallel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

#include "core/context.h"

namespace quietformer {
namespace {

TEST(Parallel, EveryChunkRunsOnceOnAThreadOfTheContext) {
  for (const int threads : {1, 2, 5}) {
    Context ctx;
    ctx.threads = threads;
    for (const std::int64_t chunks : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> count(static_cast<std::size_t>(chunks));
      parallel_chunks(ctx, chunks, [&](std::int64_t i, int thread) {
        EXPECT_GE(thread, 0);
        EXPECT_LT(thread, threads);
        ++count[static_cast<std::size_t>(i)];
      });
      for (const auto& c : count) EXPECT_EQ(c, 1);
    }
  }
}

TEST(Parallel, NestedAndConcurrentSectionsFinish) {
  Context ctx;
  ctx.threads = 3;
  std::atomic<std::int64_t> sum{0};
  const auto sections = [&] {
    for (int r = 0; r < 200; ++r)
      parallel_chunks(ctx, 8, [&](std::int64_t, int) {
        parallel_for(ctx, 10, 3, [&](std::int64_t begin, std::int64_t end) { sum += end - begin; });
      });
  };
  std::thread other(sections);
  sections();
  other.join();
  EXPECT_EQ(sum, 2 * 200 * 8 * 10);
}

TEST(Parallel, AnExceptionReachesTheCallerAndThePoolGoesOn) {
  Context ctx;
  ctx.threads = 4;
  for (int r = 0; r < 20; ++r)
    EXPECT_THROW(parallel_chunks(ctx, 50,
                                 [&](std::int64_t i, int) {
                                   if (i == 17) throw std::runtime_error("chunk 17");
                                 }),
                 std::runtime_error);
  std::atomic<int> count{0};
  parallel_chunks(ctx, 50, [&](std::int64_t, int) { ++count; });
  EXPECT_EQ(count, 50);
}

}  // namespace
}  // namespace quietformer
