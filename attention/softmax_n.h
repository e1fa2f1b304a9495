// softmax_n on any tensor, along any dimension: out = exp(x) / (n + sum exp(x)), real n >= 0 (n =
// 1: Miller, "Attention is off by one", 2023). Safe for any size and sign of x; where all x are
// -inf the result is 0. Sums run in double.
#pragma once

#include "core/context.h"
#include "core/tensor.h"

namespace quietformer {

/// out, x: same shape, contiguous, f32 or f64; out may be x. Negative `dim` counts from the end.
/// Throws InputError on a negative n or a dimension that is not there.
void softmax_n(const Context& ctx, const Tensor& out, const Tensor& x, double n, int dim);

/// d_x = out * (d_out - sum(out * d_out)), overwritten; n is in `out` already. Shapes and types as
/// in forward; d_x may be d_out, not out.
void softmax_n_backward(const Context& ctx, const Tensor& d_x, const Tensor& d_out,
                        const Tensor& out, int dim);

}  // namespace quietformer
