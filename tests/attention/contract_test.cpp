// What violates the normaliser contract is not accepted; and how work is cut into chunks and slots.
#include <gtest/gtest.h>

#include <algorithm>

#include "attention/backward_sums.h"
#include "attention/cuda/packed.h"
#include "attention/normalizer/softmax_n.h"
#include "tests/attention/attention_case.h"

namespace quietformer {
namespace {

// Tasks that add to the same element of dbias must run in one chunk, or threads would race.
TEST(ReferenceChunks, TasksThatShareTheBiasGradientAreTogether) {
  for (const std::int64_t b_dim : {1, 3})
    for (const std::int64_t h_dim : {1, 4}) {
      test::CaseOptions options;
      options.B = 3, options.H = 4, options.Hk = 2;
      options.bias = {b_dim, h_dim, 4, 5};
      const test::AttentionCase c(options);
      const BackwardChunks chunks(c.problem);
      std::vector<int> chunk_of(3 * 2, -1);
      for (std::int64_t chunk = 0; chunk < chunks.count(); ++chunk)
        chunks.for_each_task(chunk, [&](std::int64_t sequence, std::int64_t kv_head) {
          int& slot = chunk_of[std::size_t(sequence * 2 + kv_head)];
          EXPECT_EQ(slot, -1) << "a task runs twice";
          slot = int(chunk);
        });
      for (int a = 0; a < 6; ++a)
        for (int b = 0; b < 6; ++b) {
          EXPECT_GE(chunk_of[std::size_t(a)], 0) << "a task never runs";
          const bool shares = (b_dim == 1 || a / 2 == b / 2) && (h_dim == 1 || a % 2 == b % 2);
          EXPECT_EQ(chunk_of[std::size_t(a)] == chunk_of[std::size_t(b)], shares);
        }
    }
}

// Every part of the contract is asked for: a policy that lacks one is no NormalizerPolicy.
struct LacksName : SoftmaxN {
  static constexpr int name = 0;
};
struct LacksTerm : SoftmaxN {
  static constexpr int term = 0;
};
struct LacksMerge : SoftmaxN {
  static constexpr int merge = 0;
};
struct LacksScale : SoftmaxN {
  static constexpr int scale = 0;
};
struct LacksWeight : SoftmaxN {
  static constexpr int weight = 0;
};
struct LacksDscore : SoftmaxN {
  static constexpr int dscore = 0;
};
struct LacksRowGradients : SoftmaxN {
  static constexpr int row_gradients = 0;
};
struct LacksElementGradient : SoftmaxN {
  static constexpr bool has_element_gradients = true;
};
struct LacksDeltaTerm : SoftmaxN {
  static constexpr DeltaRule delta_rule = DeltaRule::share_mean;
};
struct LacksShare : SoftmaxN {
  static constexpr bool clips = true;
};
struct TooManyParameters : SoftmaxN {
  static constexpr std::array<HeadParameterInfo, kMaxHeadParameters + 1> parameters{};
};

template <class... Ns>
constexpr bool none_is_a_policy = (!NormalizerPolicy<Ns> && ...);
static_assert(none_is_a_policy<LacksName, LacksTerm, LacksMerge, LacksScale, LacksWeight,
                               LacksDscore, LacksRowGradients, LacksElementGradient, LacksDeltaTerm,
                               LacksShare, TooManyParameters>);

// The host knows how many sequences there are and their length in all; the slots must do for any.
TEST(PackedTiles, EveryTileHasOneSlotAndSpareOnesStartBehindTheirSequence) {
  const std::vector<std::vector<int>> packs{{64},         {0},           {1, 0, 150, 64, 3, 20},
                                            {0, 0, 5, 0}, {63, 65, 128}, std::vector<int>(40, 1),
                                            {1000, 0, 1}, {0, 0, 0}};
  for (const std::vector<int>& lengths : packs)
    for (const int rows : {1, 32, 64, 128}) {
      std::vector<std::int32_t> cu{0};
      for (const int length : lengths) cu.push_back(cu.back() + length);
      const int sequences = int(lengths.size());
      std::vector<std::vector<int>> slots_of(lengths.size());
      const std::int64_t slots = cuda::tile_slots(cu.back(), rows, true, sequences);
      for (int slot = 0; slot < slots; ++slot) {
        const auto [sequence, tile] = cuda::packed_tile(cu.data(), sequences, rows, slot);
        ASSERT_TRUE(sequence >= 0 && sequence < sequences && tile >= 0) << slot;
        std::vector<int>& count = slots_of[std::size_t(sequence)];
        count.resize(std::max(count.size(), std::size_t(tile) + 1));
        ++count[std::size_t(tile)];
      }
      for (int b = 0; b < sequences; ++b) {
        const std::vector<int>& count = slots_of[std::size_t(b)];
        EXPECT_GE(std::int64_t(count.size()),
                  cuda::tile_slots(lengths[std::size_t(b)], rows, false, 1));
        EXPECT_TRUE(std::all_of(count.begin(), count.end(), [](int n) { return n == 1; }));
        for (int row = cu[std::size_t(b)]; row < cu[std::size_t(b) + 1]; ++row)
          EXPECT_EQ(cuda::owner_of(cu.data(), sequences, row), b);
      }
    }
}

}  // namespace
}  // namespace quietformer
