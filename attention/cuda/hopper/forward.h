// The forward of `flash` for compute capability 9.0: its tensor cores (wgmma) and copy engine
// (TMA). Host code: includes nothing of CUDA.
#pragma once

#include <string_view>

#include "attention/cuda/flash_call.h"
#include "core/cuda/tensor_map.h"

namespace quietformer::cuda {

using HopperForwardFunction = void (*)(const Context&, const FlashForwardCall&);

/// The function that computes this call on ctx.device; null where the portable kernels
/// (flash_forward.cuh) must: for options of scores and weights, heads over 128 features, rows that
/// are not whole multiples of 16 bytes apart, or 0, negative scales, no keys, weights that need the
/// finished row, row sums of normalisers without rows, total attention, kernels that the build left
/// out, every other GPU, and with
/// QUIETFORMER_PORTABLE_KERNELS=1 in the environment. `score`: what the kernel sees.
HopperForwardFunction hopper_forward(const Context& ctx, std::string_view score,
                                     std::string_view normalizer, DType dtype,
                                     const FlashForwardCall& call);

/// Floats from the key norms of one head to those of the next where these kernels read them: TMA
/// takes whole tiles of keys, whether all of them exist or not.
QF_HOST_DEVICE constexpr std::int64_t norm_stride(std::int64_t keys) {
  return (keys + 127) / 128 * 128;
}

/// inverse_norms(), laid out like that; nothing is written between.
void placed_inverse_norms(const Context& ctx, float* out, const Tensor& x);

/// A call and how TMA finds its tensors.
struct HopperForwardCall {
  FlashForwardCall call;
  TensorMap q[2], k[2], v, o;
  int tiles;  // of query rows in a head
  // The first tile of a head goes with the last, the second with the last but one, ...
  bool paired;
};

/// The kernel of a (score, normaliser) pair for an operand type and a padded head dim of 64 or 128;
/// instantiated in generated sources, one each.
template <class S, class N, class T, int dim>
struct HopperForwardInstance {
  /// Null for normalisers whose weights need the finished row.
  static HopperForwardFunction function();
};

/// Of a GPU, for grids of blocks that stay.
int multiprocessors(Device device);

}  // namespace quietformer::cuda
