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

/// One operand of a batch of products: the address of each product's matrix, itself in memory on
/// the device, and the distance of its rows in elements, at least their length.
struct BatchedMatrix {
  void* const* data = nullptr;
  std::int64_t row_stride = 0;
  Transpose transpose = Transpose::no;  // not for C
};

/// `count` products C = alpha * op(A) op(B) (+ C) of one size, (M, K) by (K, N), f32 or f64 as
/// `dtype` says, with unit inner stride. No C may overlap another or an input.
void gemm_batched(const Context& ctx, DType dtype, std::int64_t count, std::int64_t m,
                  std::int64_t n, std::int64_t k, double alpha, const BatchedMatrix& a,
                  const BatchedMatrix& b, const BatchedMatrix& c, Accumulate accumulate);

}  // namespace quietformer::cuda
