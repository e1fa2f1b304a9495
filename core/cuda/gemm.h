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
/// unless ctx.tf32. Repeated calls give the same bits; so do other runs where ctx.deterministic.
/// Otherwise the first call of a shape times a few algorithms, for which it waits and, when C is
/// added to, allocates for a while.
///
/// cuBLAS wants a handle: one per host thread and device, made by the first product there and
/// released when the thread ends, as are the plans (algorithm and descriptors) for every shape met.
/// Products work in workspace(). While a Graph is recorded no new shape may come up.
void gemm(const Context& ctx, const Tensor& c, const Tensor& a, Transpose ta, const Tensor& b,
          Transpose tb, double alpha, Accumulate accumulate);

/// C = op(A) op(B) with an epilogue; shapes and types as gemm(). False, and nothing of use is done,
/// where cuBLASLt cannot and, unless ctx.deterministic, where a product and a pass after it are
/// faster than one with gelu_backward.
bool gemm_with(const Context& ctx, const Tensor& c, const Tensor& a, Transpose ta, const Tensor& b,
               Transpose tb, const Epilogue& epilogue);

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
