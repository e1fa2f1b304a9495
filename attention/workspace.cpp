#include "attention/workspace.h"

#include <fmt/format.h>

#include <algorithm>

namespace quietformer {

void prepare(const AttentionImplementation& implementation, const Context& ctx,
             const AttentionProblem& problem, Direction direction) {
  check(problem, direction);
  if (const auto reason = implementation.why_not(problem, direction))
    throw InputError(
        fmt::format("attention implementation {}: {}", implementation.name(), *reason));
  const std::int64_t needed = implementation.workspace_bytes(ctx, problem, direction);
  const Tensor& workspace = problem.workspace;
  const std::int64_t found = workspace.data == nullptr ? 0 : workspace.bytes();
  if (found < needed)
    throw InputError(fmt::format("attention workspace: {} bytes, {} needs {}", found,
                                 implementation.name(), needed));
  if (!workspace.contiguous() ||
      reinterpret_cast<std::uintptr_t>(workspace.data) % Buffer::kAlignment != 0)
    throw InputError(
        fmt::format("attention workspace: not contiguous and {}-byte aligned", Buffer::kAlignment));
}

std::int64_t workspace_bytes(const AttentionImplementation& implementation, const Context& ctx,
                             const AttentionProblem& problem) {
  return std::max(implementation.workspace_bytes(ctx, problem, Direction::forward),
                  implementation.workspace_bytes(ctx, problem, Direction::backward));
}

}  // namespace quietformer
