// Matrix products on a GPU, by cuBLASLt (f64: cuBLAS). Host code, as core/cuda/memory.h.
#pragma once

#include "core/gemm.h"

namespace quietformer::cuda {

/// What happens to a product before it is stored.
struct Epilogue {
  enum class Kind : std::uint8_t {
    none,
    bias,           // C = product + bias, for every row
    bias_gelu,      // pre = product + bias, C = gelu(pre), the tanh form
    gelu_backward,  // C = product * gelu'(pre)
  };
  Kind kind = Kind::none;
  Tensor bias;  // (N) of C's type
  Tensor pre;   // (M, N) of C's type, any row stride that is a multiple of 8
};

/// quietformer::gemm on ctx.device, which has checked sizes and types. fp32 multiplies in fp32
/// unless ctx.tf32. Repeated calls give the same bits.
///
/// cuBLAS wants a handle: one per host thread and device, made by the first product there and
/// released when the thread ends, as are the plans (algorithm and descriptors) for every shape met.
/// Products work in workspace(). While a Graph is recorded no new shape may come up.
void gemm(const Context& ctx, const Tensor& c, const Tensor& a, Transpose ta, const Tensor& b,
          Transpose tb, double alpha, Accumulate accumulate);

/// C = op(A) op(B) with an epilogue; shapes and types as gemm(). False, and nothing is done, where
/// cuBLASLt cannot.
bool gemm_with(const Context& ctx, const Tensor& c, const Tensor& a, Transpose ta, const Tensor& b,
               Transpose tb, const Epilogue& epilogue);

}  // namespace quietformer::cuda
