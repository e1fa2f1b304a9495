// Norms of contiguous, aligned rows of up to 1024 channels, which fit the registers of a warp: each
// tensor is read and written once. For layers/cuda/norm.cu, which checks what the tensors are.
#pragma once

#include "layers/cuda/operations.h"

namespace quietformer::cuda {

/// cuda::join_norm_forward(), or norm_forward() where join has no branch. False, and nothing is
/// done, for other rows.
bool norm_rows_forward(const Context& ctx, NormKind kind, const Tensor& y,
                       const NormStatistics& saved, const Join& join, const Tensor& weight,
                       const Tensor& bias, double eps);

/// cuda::norm_backward(), likewise.
bool norm_rows_backward(const Context& ctx, NormKind kind, const Tensor& dx, const Tensor& d_weight,
                        const Tensor& d_bias, const Tensor& dy, const Tensor& x,
                        const NormStatistics& saved, const Tensor& weight, Accumulate accumulate);

}  // namespace quietformer::cuda
