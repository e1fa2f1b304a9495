#include "core/cuda/gemm.h"

#include <cublas_v2.h>

#include <algorithm>
#include <map>

#include "core/cuda/launch.h"

namespace quietformer::cuda {
namespace {

void check_cublas(cublasStatus_t status, std::string_view what, Device device) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw RunError(std::string(what) + " on cuda:" + std::to_string(device.index) + ": " +
                 cublasGetStatusString(status));
}

/// A cuBLAS handle of one device, which must be current when it is made.
class Handle {
 public:
  explicit Handle(Device device) {
    check_cublas(cublasCreate(&handle_), "starting cuBLAS", device);
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() { cublasDestroy(handle_); }
  cublasHandle_t get() const { return handle_; }

 private:
  cublasHandle_t handle_ = nullptr;
};

cublasHandle_t handle_of(Device device) {
  thread_local std::map<std::int16_t, Handle> handles;
  return handles.try_emplace(device.index, device).first->second.get();
}

cublasOperation_t operation(Transpose transpose) {
  return transpose == Transpose::yes ? CUBLAS_OP_T : CUBLAS_OP_N;
}

/// Row stride as cuBLAS accepts it: at least 1 also where a matrix is empty.
std::int64_t leading(const Tensor& t) {
  return std::max<std::int64_t>({1, t.stride[0], t.shape[1]});
}

}  // namespace

void gemm(const Context& ctx, const Tensor& c, const Tensor& a, Transpose ta, const Tensor& b,
          Transpose tb, double alpha, Accumulate accumulate) {
  expect_on_device(ctx, a, b, c);
  const std::int64_t m = c.shape[0], n = c.shape[1];
  if (m == 0 || n == 0) return;
  const std::int64_t k = ta == Transpose::no ? a.shape[1] : a.shape[0];
  const CurrentDevice current(ctx.device);
  const cublasHandle_t handle = handle_of(ctx.device);
  check_cublas(cublasSetStream(handle, ctx.stream), "choosing a stream", ctx.device);
  // cuBLAS stores columns together: it sees C^T = op(B)^T op(A)^T.
  dispatch_floating(c.dtype, [&]<class T>() {
    constexpr bool kDouble = std::is_same_v<T, double>;
    constexpr cudaDataType_t kType = kDouble ? CUDA_R_64F : CUDA_R_32F;
    constexpr cublasComputeType_t kCompute = kDouble ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F;
    const T scale = T(alpha), keep = accumulate == Accumulate::add ? T(1) : T(0);
    check_cublas(cublasGemmEx_64(handle, operation(tb), operation(ta), n, m, k, &scale, b.data,
                                 kType, leading(b), a.data, kType, leading(a), &keep, c.data, kType,
                                 leading(c), kCompute, CUBLAS_GEMM_DEFAULT),
                 "a matrix product", ctx.device);
  });
}

void gemm_batched(const Context& ctx, DType dtype, std::int64_t count, std::int64_t m,
                  std::int64_t n, std::int64_t k, double alpha, const BatchedMatrix& a,
                  const BatchedMatrix& b, const BatchedMatrix& c, Accumulate accumulate) {
  QF_EXPECTS(c.transpose == Transpose::no);
  if (count == 0 || m == 0 || n == 0) return;
  const CurrentDevice current(ctx.device);
  const cublasHandle_t handle = handle_of(ctx.device);
  dispatch_floating(dtype, [&]<class T>() {
    constexpr bool kDouble = std::is_same_v<T, double>;
    constexpr cudaDataType_t kType = kDouble ? CUDA_R_64F : CUDA_R_32F;
    constexpr cublasComputeType_t kCompute = kDouble ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F;
    const T scale = T(alpha), keep = accumulate == Accumulate::add ? T(1) : T(0);
    check_cublas(cublasGemmBatchedEx_64(handle, operation(b.transpose), operation(a.transpose), n,
                                        m, k, &scale, b.data, kType, b.row_stride, a.data, kType,
                                        a.row_stride, &keep, c.data, kType, c.row_stride, count,
                                        kCompute, CUBLAS_GEMM_DEFAULT),
                 "matrix products", ctx.device);
  });
}

}  // namespace quietformer::cuda
