// Operations on the rows of (B, heads, length, features) tensors of any strides with unit inner
// stride, f64, f32, bf16 or f16. Host code; exists in every build (without CUDA it throws
// RunError).
#pragma once

#include "core/context.h"
#include "core/tensor.h"

namespace quietformer::cuda {

/// to = from, converted to the type of `to`: to the nearest, ties to even. Same shapes.
void convert_rows(const Context& ctx, const Tensor& to, const Tensor& from);

void zero_rows(const Context& ctx, const Tensor& to);

/// l2norm_rows() and l2norm_backward_rows() of attention/l2norm.h, all of one type, f32 or f64.
/// Sums run in f64.
void l2norm_rows(const Context& ctx, const Tensor& out, const Tensor& x, int groups);
void l2norm_backward_rows(const Context& ctx, const Tensor& d_x, const Tensor& d_out,
                          const Tensor& x, int groups);

}  // namespace quietformer::cuda
