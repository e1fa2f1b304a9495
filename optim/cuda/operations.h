// The optimizer's passes on a GPU. Host code: includes nothing of CUDA; in a build without CUDA
// (absent.cpp) every call is the RunError of core/cuda/memory.h. Nothing here waits for the GPU,
// and sums run in an order that depends on sizes alone.
#pragma once

#include <array>
#include <cstdint>

#include "core/context.h"
#include "core/tensor.h"
#include "optim/config.h"
#include "optim/step_state.h"

namespace quietformer::cuda {

inline constexpr std::size_t kMaxStates = 2;
inline constexpr std::int64_t kUpdateBytes = 256;

/// Flat tensors of one layout, and which elements of them to update: a row (begin, end, decayed) of
/// `pieces`, i64 (pieces, 3), for each stretch that one block takes; decayed is 0 or 1, begin a
/// multiple of 4. What lies between is padding.
struct StepTensors {
  Tensor masters, grads;
  Tensor values;                         // bf16 or f16; absent where the masters are the values
  std::array<Tensor, kMaxStates> state;  // as many as the rule has
  Tensor pieces;
  Tensor update;  // u8 (kUpdateBytes): scratch between the two launches of a step
};

/// The numbers of a step: in `state` (StepState::tensor() and loss_scale()), or here.
struct StepNumbers {
  double lr = 0, step = 0, grad_scale = 1;
  Tensor state, loss_scale;
  LossScaling scaling;
};

/// Optimizer::step with the rule config.type: one launch for all parameters, and one for the
/// numbers.
void optimizer_step(const Context& ctx, const OptimConfig& config, const StepTensors& tensors,
                    const StepNumbers& numbers);

/// partial f64 (N + 1): the first N become sums of squares of equal stretches of `values`, and the
/// last one their sum. With `state` also norm, scale and finite of StepValues, clipped to `clip`
/// (0: not at all).
void sum_of_squares(const Context& ctx, const Tensor& partial, const Tensor& values,
                    const Tensor& state = {}, double clip = 0);

/// StepState::begin.
void begin_step(const Context& ctx, const Tensor& state, double lr, double step);

}  // namespace quietformer::cuda
