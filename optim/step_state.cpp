#include "optim/step_state.h"

#include "core/cuda/memory.h"
#include "optim/cuda/operations.h"

namespace quietformer {

constexpr std::int64_t kCount = sizeof(StepValues) / sizeof(double);
static_assert(kCount == 8);

StepState::StepState(Device gpu, const LossScaling& scaling)
    : scaling_(scaling), values_(DType::f64, {kCount}, gpu), loss_scale_(DType::f32, {1}, gpu) {
  StepValues values;
  values.loss_scale = scaling.initial;
  restore(values);
}

void StepState::begin(const Context& ctx, double lr, std::int64_t step) {
  QF_EXPECTS(step >= 0);
  cuda::begin_step(ctx, values_, lr, static_cast<double>(step));
}

StepValues StepState::read(const Context& ctx) const {
  StepValues values;
  cuda::synchronize(ctx);
  cuda::copy(Tensor(&values, DType::f64, {kCount}), values_);
  return values;
}

void StepState::restore(const StepValues& values) {
  StepValues copy = values;
  auto scale = static_cast<float>(values.loss_scale);
  cuda::copy(values_, Tensor(&copy, DType::f64, {kCount}));
  cuda::copy(loss_scale_, Tensor(&scale, DType::f32, {1}));
}

}  // namespace quietformer
