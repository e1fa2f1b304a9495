// Storage in 16 bits for implementations that compute in f32: operands are copied to f32 in the
// workspace, the implementation runs on the copies, and what it wrote is rounded once, to nearest.
// bf16; on a GPU f16, too.
#pragma once

#include "attention/attention.h"

namespace quietformer {

inline bool stored_in_16_bits(const AttentionProblem& problem) {
  return problem.q.dtype == DType::bf16 || problem.q.dtype == DType::f16;
}

/// Scratch for one direction: f32 copies of what it reads and writes, and what the implementation
/// needs for the problem in f32.
std::int64_t widened_workspace_bytes(const AttentionImplementation& implementation,
                                     const Context& ctx, const AttentionProblem& problem,
                                     Direction direction);

/// Runs the direction of a checked problem by way of f32.
void run_widened(const AttentionImplementation& implementation, const Context& ctx,
                 const AttentionProblem& problem, Direction direction);

}  // namespace quietformer
