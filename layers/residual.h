// What joins a branch to the residual stream: a sum with optional gains.
#pragma once

#include "core/context.h"
#include "core/tensor.h"

namespace quietformer {

/// out = alpha * x + gain * branch. alpha is DeepNet's constant (Wang et al., arXiv 2203.00555) or
/// 1; gain (C) is LayerScale's (Touvron et al., arXiv 2103.17239), absent means 1; it and its
/// gradient have the accumulation type. out, x, branch
/// (..., C) contiguous; out may alias x or branch.
void residual_forward(const Context& ctx, const Tensor& out, const Tensor& x, const Tensor& branch,
                      double alpha, const Tensor& gain);

/// d_branch = gain * d_out (may alias d_out) and d_gain += sum over rows of d_out * branch. Only
/// for a present gain: without one d_branch equals d_out and nothing needs doing.
void residual_backward_gain(const Context& ctx, const Tensor& d_branch, const Tensor& d_gain,
                            const Tensor& d_out, const Tensor& branch, const Tensor& gain);

}  // namespace quietformer
