// Inverted dropout (Srivastava et al. 2014) of activations.
#pragma once

#include <cstdint>

#include "core/context.h"
#include "core/tensor.h"

namespace quietformer {

/// Places in a layer that drop activations; part of the random stream, never renumber.
enum class DropoutSite : std::uint32_t { embedding = 0, attention = 1, mlp = 2 };

/// Which decisions to draw: element (b, t, c) of layer `layer` uses the stream (seed, step, layer)
/// at (ctx.random.first_sample + b, site, t, c). So a batch cut into micro-batches, or run by
/// another number of threads, drops the same elements.
struct Dropout {
  double probability = 0;
  std::uint32_t layer = 0;
  DropoutSite site = DropoutSite::embedding;
};

/// Whether this dropout does anything: train mode and a positive probability.
bool active(const Context& ctx, const Dropout& dropout);

/// y = keep x / (1 - probability), x and y (B,T,C) contiguous; y may alias x. Outside train mode y
/// = x. Backward is the same function on gradients: the decisions are drawn again, not stored.
void dropout_apply(const Context& ctx, const Dropout& dropout, const Tensor& y, const Tensor& x);

}  // namespace quietformer
