// Scratch memory on a GPU for kernels and products. Host code, as core/cuda/memory.h.
#pragma once

#include <cstdint>

#include "core/context.h"

namespace quietformer::cuda {

inline constexpr std::int64_t kWorkspaceBytes = std::int64_t{64} << 20;

/// kWorkspaceBytes on the device, aligned to 256 bytes: one block per host thread and device, made
/// by the first call there (so not while a Graph is recorded) and released when the thread ends.
/// Whoever launches work that uses it leaves nothing there: in one stream uses follow one another.
/// A thread that works in several streams at once must make them wait for each other.
void* workspace(Device device);

}  // namespace quietformer::cuda
