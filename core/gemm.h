// Matrix products: on the CPU our own strips and panels for layers and Eigen for the reference, on
// a GPU cuBLAS.
#pragma once

#include <cstdint>

#include "core/context.h"
#include "core/tensor.h"

namespace quietformer {

enum class Transpose : std::uint8_t { no, yes };

/// What happens to the output's old contents.
enum class Accumulate : std::uint8_t { overwrite, add };

/// C = alpha * op(A) op(B), or C += that. op(A) is (M, K), op(B) is (K, N), C is (M, N).
/// Matrices are 2-D views with unit inner stride and any row stride; C overlaps neither input.
/// f32 or f64, all three alike; accumulation in the same type. On a GPU A and B may also both be
/// bf16 or both f16: sums are then f32, and C is of that type or f32. On the CPU the result does
/// not depend on the number of threads: the output is cut into tiles that depend on (M, N, K)
/// alone. Sizes or types that do not fit are std::logic_error.
void gemm(const Context& ctx, const Tensor& c, const Tensor& a, Transpose ta, const Tensor& b,
          Transpose tb, double alpha = 1.0, Accumulate accumulate = Accumulate::overwrite);

/// The same by Eigen on the calling thread, without checks, for use inside a parallel chunk of the
/// attention reference: a product that shares nothing with what it is compared with. ld* are row
/// strides in elements. T is float or double.
template <class T>
void gemm_serial(std::int64_t m, std::int64_t n, std::int64_t k, T alpha, const T* a,
                 std::int64_t lda, Transpose ta, const T* b, std::int64_t ldb, Transpose tb, T* c,
                 std::int64_t ldc, Accumulate accumulate);

}  // namespace quietformer
