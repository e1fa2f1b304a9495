// The scratch memory of an implementation: how it is cut up and checked.
#pragma once

#include "attention/attention.h"
#include "core/buffer.h"

namespace quietformer {

/// Hands out aligned pieces of a workspace, as offsets from its start.
struct Carver {
  std::int64_t bytes = 0;  // handed out so far

  static std::int64_t align(std::int64_t bytes) {
    return (bytes + Buffer::kAlignment - 1) / Buffer::kAlignment * Buffer::kAlignment;
  }
  std::int64_t operator()(std::int64_t size) {
    const std::int64_t offset = bytes;
    bytes += align(size);
    return offset;
  }
};

/// What every implementation does first: check() the problem, its own why_not, and the workspace.
/// Throws InputError.
void prepare(const AttentionImplementation& implementation, const Context& ctx,
             const AttentionProblem& problem, Direction direction);

}  // namespace quietformer
