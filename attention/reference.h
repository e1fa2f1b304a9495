// The `reference` implementation: unfused, every option, f32 and f64, exports the weights.
//
// One task per (sequence, key head) goes through its query heads and blocks of query rows; a
// block's weights (and in backward their gradients) are rows x S in the thread's slice of the
// workspace. Sums over a row and over parameters run in double; dk and dv accumulate over blocks
// and over the heads of a group in the type of q. Order depends on the problem alone, never on
// threads.
#pragma once

#include "attention/attention.h"

namespace quietformer {

/// Where everything lies in the workspace, in bytes from its start (a slice's parts: from the
/// slice's).
struct ReferenceLayout {
  static constexpr std::int64_t kRows = 64;  // query rows per block

  std::int64_t row_stride = 0;  // of the two row blocks, in elements
  // One slice per thread:
  std::int64_t weights = 0;      // (kRows, S): scores, then weights
  std::int64_t gradients = 0;    // (kRows, S): far scores; gradients of weights, then of scores
  std::int64_t query_rows = 0;   // (kRows, D): normalised queries
  std::int64_t query_grads = 0;  // (kRows, D): gradients before scale and norm
  std::int64_t keys = 0;         // (S, D): normalised keys
  std::int64_t key_grads = 0;    // (S, D): gradients of normalised keys
  std::int64_t keep = 0;         // (S): a row of dropout factors
  std::int64_t totals = 0;       // (S) f64: sums over queries
  std::int64_t slice_bytes = 0;
  // Once:
  std::int64_t slices = 0;
  std::int64_t partials = 0;  // (B, H, kMaxHeadParameters + 1) f64: parameter and scale gradients
  std::int64_t dbias = 0;     // f64, size of bias: sums over broadcast dimensions
  std::int64_t bytes = 0;

  ReferenceLayout(const Context& ctx, const AttentionProblem& problem);
};

/// One (score, normaliser) pair; instantiated in generated sources, one per pair.
template <class S, class N>
struct ReferencePair {
  static void forward(const Context& ctx, const AttentionProblem& problem);
  static void backward(const Context& ctx, const AttentionProblem& problem);
};

const AttentionImplementation& reference_implementation();

}  // namespace quietformer
