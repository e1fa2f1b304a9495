#include "attention/workspace.h"

#include <fmt/format.h>

namespace quietformer {

void prepare(const AttentionImplementation& implementation, const Context& ctx,
             const AttentionProblem& problem, Direction direction) {
  check(problem, direction);
  if (const auto reason = implementation.why_not(problem, direction))
    throw InputError(
        fmt::format("attention implementation {}: {}", implementation.name(), *reason));
  const std::int64_t needed = implementation.workspace_bytes(ctx, problem);
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

}  // namespace quietformer
