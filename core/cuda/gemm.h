// Matrix products on a GPU, by cuBLAS. Host code, as core/cuda/memory.h.
#pragma once

#include "core/gemm.h"

namespace quietformer::cuda {

/// quietformer::gemm on ctx.device, which has checked sizes and types. fp32 multiplies in fp32
/// (TF32 stays off). Repeated calls give the same bits.
///
/// cuBLAS wants a handle, which holds its workspace on the device: one per host thread and device,
/// made by the first product there and released when the thread ends.
void gemm(const Context& ctx, const Tensor& c, const Tensor& a, Transpose ta, const Tensor& b,
          Transpose tb, double alpha, Accumulate accumulate);

}  // namespace quietformer::cuda
