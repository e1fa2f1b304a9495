// The numbers of an optimizer step in GPU memory, so that clipping, the update and the loss scale
// of fp16 need no answer from the host, and a step can be a cuda::Graph.
//
//   state.begin(ctx, schedule.lr(step), step);           outside the graph
//   parameters.zero_grad(ctx);
//   model.forward_backward(ctx, batch, {1.0 / accumulate, state.loss_scale()});
//   clip.measure(ctx, state);
//   optimizer.step(ctx, state);
//   ... state.read(ctx) where the numbers are wanted
#pragma once

#include <cstdint>

#include "core/buffer.h"
#include "core/context.h"

namespace quietformer {

/// Gradients are those of the loss times `initial`; when dynamic, a step whose gradients are not
/// finite halves the factor, and `interval` good steps in a row double it (Micikevicius et al.,
/// "Mixed precision training", 2018; the constants of torch.amp.GradScaler).
struct LossScaling {
  double initial = 1;
  bool dynamic = false;
  std::int64_t interval = 2000;
  static LossScaling fixed() { return {}; }
  static LossScaling fp16() { return {65536, true, 2000}; }
};

/// What StepState::tensor() holds, f64, in this order.
struct StepValues {
  double lr = 0;
  double step = 0;        // counts from 0
  double norm = 0;        // 2-norm of the gradients, loss scale taken out, before clipping
  double scale = 1;       // what gradients are multiplied by: clip's scale / loss scale
  double finite = 1;      // 0: norm is not finite, and the optimizer leaves everything as it was
  double skipped = 0;     // steps left out so far; a rule's step count is step - skipped
  double good_steps = 0;  // in a row, since the loss scale changed
  double loss_scale = 1;  // of the next step
};

class StepState {
 public:
  explicit StepState(Device gpu, const LossScaling& scaling = LossScaling::fixed());

  /// Before the gradients of a step are made: its learning rate and number.
  void begin(const Context& ctx, double lr, std::int64_t step);

  /// StepValues, f64 (8) on the GPU: to copy without waiting (cuda::copy_async).
  Tensor tensor() const { return values_; }
  /// f32 (1) on the GPU: what this step's gradients are to be multiplied by.
  Tensor loss_scale() const { return loss_scale_; }
  const LossScaling& scaling() const { return scaling_; }

  /// Waits for ctx.stream. After Optimizer::step() the numbers are those of that step, loss_scale
  /// and good_steps of the next one.
  StepValues read(const Context& ctx) const;
  /// After a resume (skipped, good_steps and loss_scale matter); waits for the GPU.
  void restore(const StepValues& values);

 private:
  LossScaling scaling_;
  OwnedTensor values_, loss_scale_;
};

}  // namespace quietformer
