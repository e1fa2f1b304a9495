// How the backward for compute capability 9.0 cuts its work, and where things lie in shared memory.
#pragma once

#include <cstdint>

#include "attention/cuda/hopper/copy.cuh"
#include "attention/normalizer/normalizer.h"
#include "attention/score/score.h"

namespace quietformer::cuda {

template <class S, class N, int dim>
struct HopperBackwardShape {
  static constexpr int kGroups = 2;  // warpgroups that compute
  // A warpgroup has 64 of the keys, and of sums of 64 features two in registers (dK, dV) for every
  // half of a head: wider heads leave room for the scores of fewer queries.
  static constexpr int kKeys = 64 * kGroups, kQueries = 8192 / dim;
  // Of a thread that copies, and of one that computes: 64 Ki in all.
  static constexpr int kCopyRegisters = 24, kRegisters = 240;
  static constexpr int kThreads = 128 * (kGroups + 1);
  static constexpr bool kUnit = S::operands == Operands::unit_groups;
  static constexpr int kHalves = dim / 64;  // tiles of 64 features side by side
  static constexpr int kStages = 2;         // of keys, of queries, of dS

  static constexpr int kKeyBytes = kKeys * dim * 2, kQueryBytes = kQueries * dim * 2,
                       kGradientBytes = kKeys * kQueries * 2;
  // f32 per query: row state, delta, 1/|q|, as far as the pair needs them.
  static constexpr bool kHasState = N::row_normalised, kHasDelta = N::delta_rule != DeltaRule::none;
  static constexpr int kConstantBytes = kQueries * 4;
  static constexpr int kDelta = kHasState ? kConstantBytes : 0,
                       kNorm = kDelta + (kHasDelta ? kConstantBytes : 0),
                       kConstants = kNorm + (kUnit ? kConstantBytes : 0);
  // What the copying warp says about a tile of queries: QueryTile; parameters.
  static constexpr int kParameters = 32, kPlanBytes = kParameters + 16;

  static constexpr int kK = 0, kV = kK + kStages * kKeyBytes, kQ = kV + kStages * kKeyBytes,
                       kOut = kQ + kStages * kQueryBytes,  // dO
      kGradients = kOut + kStages * kQueryBytes,           // dS^T
      kRows = kGradients + kStages * kGradientBytes, kPlans = kRows + kStages * kConstants,
                       kElementSums = kPlans + kStages * kPlanBytes,  // of elements, one a warp
      kBarriers = kElementSums + kGroups * 4 * 4 * kMaxHeadParameters,
                       kBytes = kBarriers + 6 * kStages * 8;
  static_assert(kBytes <= 227 * 1024);

  // Barriers: full and empty of each stage of K and V together, of Q with what belongs to rows, and
  // of dO.
  enum Barrier : std::uint8_t { k_full, k_empty, q_full, q_empty, out_full, out_empty };
  static __device__ __forceinline__ std::uint32_t barrier(std::uint32_t shared, Barrier which,
                                                          int stage) {
    return shared + kBarriers + (which * kStages + stage) * 8;
  }
  static __device__ __forceinline__ std::uint32_t plan(std::uint32_t shared, int stage) {
    return shared + kPlans + stage * kPlanBytes;
  }
  static __device__ __forceinline__ std::uint32_t rows(std::uint32_t shared, int stage) {
    return shared + kRows + stage * kConstants;
  }
};

/// A tile of queries for a tile of keys, as the copying warp tells the others: 8 words.
struct QueryTile {
  // Which results are complete behind it; kNothing: no query sees the keys, for whom zeros must be
  // written all the same.
  enum Flags : int { kFirst = 1, kLastOfHead = 2, kLast = 4, kFar = 8, kNothing = 16 };

  int first_query, first_key;  // first_query -1: there is no other
  int slot;                    // of query_sums, of its first 64 queries
  int flags;
  int head, kv_head, batch;
  int key_slot;
};

}  // namespace quietformer::cuda
