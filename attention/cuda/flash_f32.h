// `flash` in f32 on a GPU: kernels of plain multiply-adds, every option, forward and backward, head
// dims up to 256, memory that grows with L and S. Bitwise the same from run to run.
//
// One set of kernels per normaliser: operands of a score with norms are normalised before (and
// their gradients afterwards), and a score of two pairs is a table of how many keys of each row
// take the far pair.
#pragma once

#include "attention/attention.h"
#include "attention/cuda/row_problem.h"

namespace quietformer::cuda {

/// Exists in every build; without CUDA it runs nothing (why_not).
const AttentionImplementation& flash_f32_implementation();

/// What the kernels read, besides RowProblem: passed by value at the launch.
struct FlashF32Call {
  RowProblem<float> p;
  int batch = 0;                  // of the tensors
  int pairs = 1;                  // of the score
  const int* far_keys = nullptr;  // per query row: keys [0, far_keys[row]) of its sequence are far
  std::int64_t tiles = 0, key_tiles = 0;  // of query rows (each kernel's own) and of 64 keys
  MatrixView<const float> q[2], k[2], v;  // [2]: near and far pair
  MatrixView<float> o;
  float* total_attention = nullptr;  // (B, H, S)

  // backward
  MatrixView<const float> d_out;
  MatrixView<float> dq[2], dk[2], dv;
  const float* delta = nullptr;  // (B, H, L)
  double* tile_sums = nullptr;   // (B, H, tiles, kMaxHeadParameters + 1), the last for scale
  BroadcastView<float> dbias;
  std::int64_t bias_shape[4] = {};

  explicit FlashF32Call(const RowProblem<float>& problem) : p(problem) {}
};

/// One normaliser; instantiated in generated sources. A problem needs row_state where the
/// normaliser has row denominators, except in forward().
template <class N>
struct FlashF32 {
  static void forward(const Context& ctx, const FlashF32Call& call);
  static void totals(const Context& ctx, const FlashF32Call& call);
  /// delta (B, H, L) of the rows, and their part of parameter gradients added to `sums`
  /// (B, H, kMaxHeadParameters + 1) f64.
  static void deltas(const Context& ctx, const FlashF32Call& call, const MatrixView<const float>& o,
                     float* delta, double* sums);
  /// dq where present; parameter gradients and that of scale are added to `sums`.
  static void query_gradients(const Context& ctx, const FlashF32Call& call, double* sums);
  static void key_gradients(const Context& ctx, const FlashF32Call& call);
  static void bias_gradient(const Context& ctx, const FlashF32Call& call);
};

}  // namespace quietformer::cuda
