// Clipping by the global norm of all gradients.
#pragma once

#include <vector>

#include "core/buffer.h"
#include "core/context.h"
#include "core/parameter.h"
#include "optim/step_state.h"

namespace quietformer {

struct ClipResult {
  double norm = 0;  // 2-norm of all gradients before clipping; NaN or infinite if any of them is
  /// What the gradients are to be multiplied by: min(1, clip / (norm + 1e-6)) as
  /// torch.nn.utils.clip_grad_norm_ does, 1 when clipping is off, NaN when the norm is not finite.
  double scale = 1;
};

/// Measures the norm; does not touch the gradients (Optimizer::step takes the scale). Squares are
/// added in double, per chunk and then in chunk order: the result does not depend on threads, and
/// fp32 gradients cannot overflow it. No allocation after construction. On a GPU measure() waits
/// for everything before it, since it returns the norm to the host.
class GradientClip {
 public:
  /// `parameters` is committed and outlives this; `clip` 0 = measure only.
  GradientClip(const ParameterList& parameters, double clip);
  ClipResult measure(const Context& ctx);
  /// The same on a GPU without an answer to the host: completes norm, scale and finite of `state`,
  /// the loss scale taken out.
  void measure(const Context& ctx, StepState& state);

 private:
  double squares(const Context& ctx);

  Tensor grads_;
  double clip_;
  std::vector<double> partial_;  // on the CPU
  OwnedTensor gpu_partial_;      // on a GPU, the last element is the sum
};

}  // namespace quietformer
