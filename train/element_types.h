// Values of one element type as another's.
#pragma once

#include <string_view>

#include "core/tensor.h"

namespace quietformer {

/// Copies values of type `from` (contiguous, of any alignment) into contiguous host memory `out`:
/// every type into its own, and f64, f32, f16 and bf16 into f32 and f64. False, without touching
/// anything, for other pairs. The number of bytes is that of out.count() elements.
bool copy_elements(DType from, std::string_view bytes, const Tensor& out);

}  // namespace quietformer
