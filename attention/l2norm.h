// l2 norm of rows in groups: y = x / max(|x|, 1e-12) over each of `groups` slices of the last
// dimension; a zero slice stays zero. Sums run in double.
#pragma once

#include <cstdint>

#include "core/context.h"
#include "core/tensor.h"

namespace quietformer {

/// out, x: (..., D), contiguous, f32 or f64; out may be x. Throws InputError when groups do not
/// divide D.
void l2norm(const Context& ctx, const Tensor& out, const Tensor& x, int groups = 1);

/// d_x = (d_out - y (y . d_out)) / |x|, and d_out / 1e-12 where |x| <= 1e-12, as in torch;
/// overwritten. All of the shape and type of x; d_x may be d_out, not x.
void l2norm_backward(const Context& ctx, const Tensor& d_x, const Tensor& d_out, const Tensor& x,
                     int groups = 1);

/// The same for `rows` rows on the calling thread; ld* are row strides in elements.
template <class T>
void l2norm_rows(T* out, std::int64_t ld_out, const T* x, std::int64_t ld_x, std::int64_t rows,
                 std::int64_t dim, int groups);
template <class T>
void l2norm_backward_rows(T* d_x, std::int64_t ld_dx, const T* d_out, std::int64_t ld_dout,
                          const T* x, std::int64_t ld_x, std::int64_t rows, std::int64_t dim,
                          int groups);

}  // namespace quietformer
