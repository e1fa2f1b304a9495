// The `reference` implementation on a GPU: unfused, every option, f32, f64, bf16 and f16, exports
// the weights.
//
// Products are cuBLAS' (never TF32), what lies between them is kernels of one block of threads per
// row of scores, with sums over rows and parameters in f64 as on the CPU. A call goes through
// chunks of (batch entry, key head) pairs, the query heads of a key head one after the other, and
// blocks of query rows; one buffer of scores (backward and scores of two pairs: two) holds a
// chunk's rows x S and takes at most kBufferBytes, unless kFewestRows rows of one head take more.
// Besides, the workspace holds copies: of q and k normalised (cosine) with the gradients of those,
// of inputs whose rows overlap, and of every operand in f32 where it is stored in 16 bits. So
// memory grows with L and S, not with L * S.
//
// Packed sequences: a block of rows multiplies with the keys of all sequences (their lengths are
// known to the device alone), so the time grows with the square of all tokens.
//
// Bitwise the same from run to run. Does not wait for the device.
#pragma once

#include "attention/attention.h"

namespace quietformer::cuda {

/// Where everything lies in the workspace, in bytes from its start; -1: not needed.
struct ReferenceLayout {
  static constexpr std::int64_t kBufferBytes = 64 << 20, kRows = 256, kFewestRows = 16,
                                kTasks = 4096;

  std::int64_t rows = 0, tasks = 0;  // of a block; at most kRows and kTasks
  std::int64_t row_stride = 0;       // of scores, in elements
  std::int64_t weights = -1;         // scores, then weights
  std::int64_t gradients = -1;       // far scores; gradients of weights, then of scores
  std::int64_t pointers = -1;        // operands of batched products
  // Copies and temporaries of whole tensors:
  std::int64_t q = -1, k = -1, q2 = -1, k2 = -1, v = -1, d_out = -1, dq = -1, dk = -1, dq2 = -1;
  std::int64_t totals = -1;    // (tasks, S) f64: sums over queries
  std::int64_t row_sums = -1;  // (tasks, rows, kMaxHeadParameters) f64
  std::int64_t sums = -1;      // (B, H, kMaxHeadParameters + 1) f64: parameters, then scale
  std::int64_t dbias = -1;     // f64, shape of bias: sums over broadcast dimensions
  std::int64_t bytes = 0;

  ReferenceLayout(const AttentionProblem& problem, Direction direction);
};

/// Exists in every build; without CUDA it runs nothing (why_not).
const AttentionImplementation& reference_implementation();

}  // namespace quietformer::cuda
