// The `flash` implementation on a GPU of compute capability 8.0 or newer: bf16 and f16, forward.
#pragma once

#include "attention/attention.h"

namespace quietformer::cuda {

/// Not in implementations() yet: choose() wants both directions. Its results are bitwise the same
/// from run to run. Exists in builds with CUDA alone.
const AttentionImplementation& flash_implementation();

}  // namespace quietformer::cuda
