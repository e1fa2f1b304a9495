// Cross-entropy of next-token logits.
#pragma once

#include "core/context.h"
#include "core/tensor.h"

namespace quietformer {

/// A gradient wanted together with the loss: d_logits = scale * dynamic_scale * that of loss[0],
/// shape, type and strides of the logits, which it may alias. dynamic_scale is f32 (1) on the GPU,
/// absent for 1 and on the CPU. Elements between the rows become 0 on a GPU.
struct LossGradient {
  Tensor d_logits;
  double scale = 1;
  Tensor dynamic_scale;
};

/// Mean of -ln softmax(logits)[target] over rows with a valid target. A negative target (-100 by
/// convention) means the row is ignored. Throws InputError for a target of V or more; on a GPU,
/// whose results nobody waits for here, such a target gives a loss of NaN instead. logits (..., V)
/// contiguous, on a GPU (rows, V) also with any row stride; targets i32, one per row. Writes loss
/// f64 (2): [0] the mean in nats (0 when no target is valid), [1] the number of valid targets;
/// row_loss and row_lse, one value per row in the accumulation type of the logits: the row's loss
/// (0 when ignored) and ln sum exp(logits). The sum runs in double, on the CPU in row order. With
/// gradient.d_logits the gradient comes in the same pass.
void cross_entropy_forward(const Context& ctx, const Tensor& loss, const Tensor& row_loss,
                           const Tensor& row_lse, const Tensor& logits, const Tensor& targets,
                           const LossGradient& gradient = {});

/// d_logits = scale * gradient of loss[0]; overwritten, may alias logits, whose strides it has.
/// Reads what forward wrote.
void cross_entropy_backward(const Context& ctx, const Tensor& d_logits, const Tensor& logits,
                            const Tensor& targets, const Tensor& loss, const Tensor& row_lse,
                            double scale);

}  // namespace quietformer
