// How the forward for compute capability 9.0 cuts its work, and where things lie in shared memory.
#pragma once

#include <cstdint>

#include "attention/cuda/hopper/copy.cuh"
#include "attention/score/score.h"

namespace quietformer::cuda {

/// How the work of a block is cut, and where things lie in its shared memory.
template <class S, int dim>
struct HopperShape {
  static constexpr int kGroups = dim == 64 ? 3 : 2;  // that compute
  static constexpr int kRows = 64 * kGroups, kKeys = 128;
  // Of a thread that copies, and of one that computes: 64 Ki in all.
  static constexpr int kCopyRegisters = kGroups == 3 ? 32 : 24,
                       kRegisters = kGroups == 3 ? 160 : 240;
  static constexpr int kThreads = 128 * (kGroups + 1);
  static constexpr bool kUnit = S::operands == Operands::unit_groups;
  static constexpr int kHalves = dim / 64;  // tiles of 64 features side by side
  static constexpr int kKeyStages = dim == 64 ? 4 : 2, kQueryStages = dim * S::pairs > 128 ? 1 : 2;
  // A group passes over tiles of keys that others of the block see. Their reaches differ by no more
  // than a tile at either end of a pair's keys, so it meets one such tile in a row, or up to three
  // where the near pair ends and the far one begins, while it still wants V of the tile before.
  // Where there are fewer stages than that takes, V of a tile comes behind K of the next, and a
  // group gives back V of what it passes over behind the one that it wants.
  static constexpr bool kValuesLag = S::pairs == 2 && kKeyStages < 4;

  static constexpr int kGroupBytes = 64 * dim * 2, kQueryBytes = kGroups * kGroupBytes;
  static constexpr int kKeyBytes = kKeys * dim * 2, kNormBytes = kUnit ? kKeys * 4 : 0;
  // What the copying warp says about a tile of queries: TilePlan; reach of pairs of groups;
  // parameters.
  static constexpr int kReaches = 32, kParameters = kReaches + kGroups * S::pairs * 16,
                       kPlanBytes = kParameters + 16;
  static constexpr int kQ = 0, kK = kQ + kQueryStages * S::pairs * kQueryBytes,
                       kV = kK + kKeyStages * kKeyBytes, kNorms = kV + kKeyStages * kKeyBytes,
                       kPlans = kNorms + kKeyStages * kNormBytes,
                       kBarriers = kPlans + kQueryStages * kPlanBytes;
  static constexpr int kBytes = kBarriers + (2 * kQueryStages * S::pairs + 4 * kKeyStages) * 8;

  using QueryRing = Ring<kQueryStages>;
  using KeyRing = Ring<kKeyStages>;

  // Full and empty barriers of each stage, of Q for each pair.
  static __device__ __forceinline__ std::uint32_t q_full(std::uint32_t shared, int stage,
                                                         int pair) {
    return shared + kBarriers + (stage * S::pairs + pair) * 8;
  }
  static __device__ __forceinline__ std::uint32_t q_empty(std::uint32_t shared, int stage,
                                                          int pair) {
    return q_full(shared, kQueryStages + stage, pair);
  }
  static __device__ __forceinline__ std::uint32_t plan(std::uint32_t shared, int stage) {
    return shared + kPlans + stage * kPlanBytes;
  }
  static __device__ __forceinline__ std::uint32_t k_full(std::uint32_t shared, int stage) {
    return q_full(shared, 2 * kQueryStages, 0) + stage * 8;
  }
  static __device__ __forceinline__ std::uint32_t k_empty(std::uint32_t shared, int stage) {
    return k_full(shared, kKeyStages + stage);
  }
  static __device__ __forceinline__ std::uint32_t v_full(std::uint32_t shared, int stage) {
    return k_full(shared, 2 * kKeyStages + stage);
  }
  static __device__ __forceinline__ std::uint32_t v_empty(std::uint32_t shared, int stage) {
    return k_full(shared, 3 * kKeyStages + stage);
  }
};

}  // namespace quietformer::cuda
