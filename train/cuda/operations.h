// What training needs of a GPU besides the layers and the optimizer. Host code: includes nothing of
// CUDA; in a build without CUDA (absent.cpp) every operation is the RunError of core/cuda/memory.h.
// Nothing here waits for the GPU.
#pragma once

#include <string>

#include "core/context.h"
#include "core/cuda/memory.h"
#include "core/tensor.h"

namespace quietformer::cuda {

/// Why this build cannot use a GPU ("NVIDIA T4 has compute capability 7.5, this build is for 90");
/// empty when it can.
std::string unusable(const Gpu& gpu);

/// sum[0] += factor * value[0], both f64: adds up losses in the order of the calls.
void add_scaled(const Context& ctx, const Tensor& sum, const Tensor& value, double factor);

/// Bytes of RandomState::places for `layers` layers.
std::int64_t place_bytes(std::int64_t layers);
/// Writes them, u8 as many, for the seed, step and first sample of ctx.random.
void place_streams(const Context& ctx, const Tensor& places);

/// Once a step was left out (StepValues of `state`, optim/step_state.h), makes `loss_scale` NaN:
/// with gradients that are NaN every later step is left out too, and parameters stay what they were
/// before the first bad one, until the host looks.
void hold_diverged(const Context& ctx, const Tensor& loss_scale, const Tensor& state);

/// valid[i] = targets[i] is not kIgnoredTarget; u8 and i32 of the same count.
void mark_valid(const Context& ctx, const Tensor& valid, const Tensor& targets);

}  // namespace quietformer::cuda
