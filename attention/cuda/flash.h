// The `flash` implementation on a GPU of compute capability 8.0 or newer: bf16 and f16, forward and
// backward.
#pragma once

#include "attention/attention.h"

namespace quietformer::cuda {

/// The GPU's part of `flash` in implementations(). Forward gives the same bits in every run,
/// backward when ctx says deterministic. Exists in builds with CUDA alone.
const AttentionImplementation& flash_implementation();

}  // namespace quietformer::cuda
