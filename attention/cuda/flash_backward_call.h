// What the kernels of the backward of `flash` on a GPU read of a problem, and how its workspace is
// cut up. Plain data, passed by value at the launch.
#pragma once

#include <cstdint>
#include <string_view>

#include "attention/cuda/flash_call.h"
#include "attention/cuda/options.h"

namespace quietformer::cuda {

/// Tiles of the kernel for a padded head dim; flash_backward.cuh says why.
struct BackwardTiles {
  int warp_keys, teams, keys, queries;

  QF_HOST_DEVICE static constexpr BackwardTiles of(int dim) {
    const int warp_keys = 4096 / dim, teams = dim == 64 ? 2 : 4;
    return {warp_keys, teams, warp_keys * teams, dim == 256 ? 32 : 64};
  }

  /// Shared memory of a block: K, V and 1/|k|, two stages of Q, dO and four f32 per query, two of
  /// 128-byte rows of scores.
  QF_HOST_DEVICE constexpr int shared_bytes(int dim) const {
    return keys * (4 * dim + 4) + 2 * queries * (4 * dim + 16) + 2 * keys * 128;
  }
};

/// Rows that a block of the kernel before the tiles works on.
inline constexpr int kDeltaRows = 32;

struct FlashBackwardCall {
  RowTensor q[2], k[2], v, o, d_out;  // [2]: near and far pair
  RowTensor dq[2], dk[2], dv;         // null data: not asked for
  int heads, group, batch;            // group: query heads per key head
  int queries, keys;                  // L, S; of all sequences when packed
  int dim, value_dim;                 // D, Dv
  float scale;
  PairDistances distances;
  const float* parameters[kMaxHeadParameters];
  float defaults[kMaxHeadParameters];
  const float* row_state;  // (B, H, L)
  float* d_parameters[kMaxHeadParameters];
  float* d_scale;
  FlashOptions options;

  // dbias: f32 strides as those of bias, null when not asked for. With `bias_in_order` a block does
  // all sequences and heads that share an element, one after the other; otherwise blocks add
  // atomically. Where keys share an element, in order, each team has a copy of `bias_count`.
  Broadcast<float> bias_gradient;
  bool bias_in_order, bias_copies;
  std::int64_t bias_count;
  int bias_sequences, bias_kv_heads;  // that one block does

  int query_slots, key_slots, row_blocks;  // tiles per (batch entry, head)
  // Key tiles that the grid has per head: key_slots, or, where a block does a tile of every packed
  // sequence, as many as one sequence may have.
  int block_slots;

  // Workspace. What blocks add to comes first and starts as zeros.
  float* query_sums[2];          // (B, H, query_slots) tiles of padded dim, in blocks of 32x32
  float* element_partials;       // (B, H, key_slots, teams, pairs, kMaxHeadParameters)
  float* scale_partials;         // (pairs, B, H, query_slots)
  float* bias_copy;              // (key_slots, teams, bias_count)
  unsigned* turns[2];            // (B, H, query_slots, warps), null: blocks need no order
  unsigned* ticket;              // the next block, in order
  float* row_partials;           // (B, H, row_blocks, kMaxHeadParameters)
  float* delta;                  // (B, H, L)
  float *inverse_q, *inverse_k;  // (B, H, L), (B, Hk, S): scores of unit operands only
  std::int64_t zero_bytes, bytes;

  /// Without a workspace its pointers are null; `bytes` is what is needed.
  FlashBackwardCall(const Context& ctx, const AttentionProblem& problem);

  QF_HOST_DEVICE bool wants_parameters() const {
    return d_parameters[0] != nullptr || d_parameters[1] != nullptr || d_parameters[2] != nullptr ||
           d_parameters[3] != nullptr;
  }
  int padded() const { return padded_dim(dim > value_dim ? dim : value_dim); }

 private:
  void set_bias_gradient(const Context& ctx, const AttentionProblem& problem);
  void cut_workspace(const Context& ctx, const AttentionProblem& problem);
};

/// The backward that goes with FlashInstance.
template <class S, class N, class T, int dim>
struct FlashBackwardInstance {
  /// Starts the kernels of backward for a problem that why_not() accepts.
  static void backward(const Context& ctx, const AttentionProblem& problem);
};

}  // namespace quietformer::cuda
