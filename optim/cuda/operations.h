// The optimizer's passes on a GPU. Host code: includes nothing of CUDA; in a build without CUDA
// (absent.cpp) every call is the RunError of core/cuda/memory.h. Nothing here waits for the GPU,
// and sums run in an order that depends on sizes alone.
#pragma once

#include <array>
#include <cstdint>

#include "core/context.h"
#include "core/tensor.h"
#include "optim/config.h"

namespace quietformer::cuda {

inline constexpr std::size_t kMaxStates = 2;

/// Flat tensors of one layout, and which elements of them to update: a row (begin, end, decayed) of
/// `pieces`, i64 (pieces, 3), for each stretch that one block takes; decayed is 0 or 1. What lies
/// between is padding.
struct StepTensors {
  Tensor values, grads;
  std::array<Tensor, kMaxStates> state;  // as many as the rule has
  Tensor pieces;
};

/// Optimizer::step with the rule config.type: one launch for all parameters.
void optimizer_step(const Context& ctx, const OptimConfig& config, const StepTensors& tensors,
                    double lr, std::int64_t step, double grad_scale);

/// partial f64 (N + 1): the first N become sums of squares of equal stretches of `values`, and the
/// last one their sum.
void sum_of_squares(const Context& ctx, const Tensor& partial, const Tensor& values);

}  // namespace quietformer::cuda
