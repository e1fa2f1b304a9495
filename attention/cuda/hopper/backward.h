// The backward of `flash` for compute capability 9.0: its tensor cores (wgmma) and copy engine
// (TMA). Host code: includes nothing of CUDA.
#pragma once

#include <string_view>

#include "attention/cuda/flash_backward_call.h"
#include "core/cuda/tensor_map.h"

namespace quietformer::cuda {

using HopperBackwardFunction = void (*)(const Context&, const FlashBackwardCall&);

/// The function that adds up dQ in call.query_sums and writes dK, dV and the element sums of this
/// call on ctx.device, between the passes over rows (flash_backward_rows.cuh); null where the
/// portable kernels (flash_backward.cuh) must: as hopper_forward() says, and for clipped weights.
HopperBackwardFunction hopper_backward(const Context& ctx, std::string_view score,
                                       std::string_view normalizer, DType dtype,
                                       const FlashBackwardCall& call);

/// A call and how TMA finds its tensors.
struct HopperBackwardCall {
  FlashBackwardCall call;
  TensorMap q[2], k[2], v, d_out;
  int items;  // tiles of keys of all key heads
};

/// The kernel of a (score, normaliser) pair for an operand type and a padded head dim of 64 or 128;
/// instantiated in generated sources, one each.
template <class S, class N, class T, int dim>
struct HopperBackwardInstance {
  /// Null for normalisers that clip.
  static HopperBackwardFunction function();
};

}  // namespace quietformer::cuda
