// How the linear weights of a block start.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/parameter.h"
#include "layers/model_config.h"

namespace quietformer {

/// DeepNet's constants for `layers` layers of encoder or decoder (Wang et al., arXiv 2203.00555,
/// table 1):
/// the residual stream is multiplied by alpha, and v, out and the MLP start smaller by the gain
/// beta.
inline double deepnet_alpha(const ModelConfig& model) {
  return std::pow(2.0 * model.layers, 0.25);
}
inline double deepnet_beta(const ModelConfig& model) {
  return std::pow(8.0 * model.layers, -0.25);
}

/// Where a weight sits: `inner` reads the block's input, `residual` writes to the residual stream.
enum class Projection : std::uint8_t { inner, residual };

/// pre and hybrid: GPT-2's N(0, init_std), divided by sqrt(2 layers) for residual projections.
/// post with DeepNet's constants: Xavier normal (Glorot, Bengio 2010) with the given gain; without:
/// BERT's N(0, init_std).
inline Init projection_init(const ModelConfig& model, Projection projection, std::int64_t in,
                            std::int64_t out, double gain) {
  if (uses_deepnet(model))
    return Init::normal(gain * std::sqrt(2.0 / static_cast<double>(in + out)));
  const bool residual = projection == Projection::residual &&
                        find_norm_structure(model.norm_structure) != NormStructure::post;
  return Init::normal(model.init_std / (residual ? std::sqrt(2.0 * model.layers) : 1.0));
}

}  // namespace quietformer
