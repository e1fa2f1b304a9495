#include "core/cuda/gemm.h"

#include <map>
#include <memory>

#include "core/cuda/gemm_plan.cuh"

namespace quietformer::cuda {
namespace {

/// Handles of one device, which must be current when they are made, and the plans made so far.
class Library {
 public:
  explicit Library(Device device) : device_(device) {
    check_cublas(cublasCreate(&plain_), "starting cuBLAS", device);
    check_cublas(cublasLtCreate(&light_), "starting cuBLASLt", device);
    check_cublas(cublasSetWorkspace(plain_, workspace(device), kWorkspaceBytes), "starting cuBLAS",
                 device);
  }
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;
  ~Library() {
    plans_.clear();
    if (light_ != nullptr) cublasLtDestroy(light_);
    if (plain_ != nullptr) cublasDestroy(plain_);
  }
  cublasHandle_t plain(const Context& ctx) {
    check_cublas(cublasSetStream(plain_, ctx.stream), "choosing a stream", device_);
    // A new stream goes with the library's own workspace.
    check_cublas(cublasSetWorkspace(plain_, workspace(device_), kWorkspaceBytes),
                 "choosing a workspace", device_);
    return plain_;
  }
  cublasLtHandle_t light() const { return light_; }
  Plan& plan(const Key& key) {
    std::unique_ptr<Plan>& plan = plans_[key];
    if (plan == nullptr) plan = std::make_unique<Plan>(light_, key, device_);
    return *plan;
  }

 private:
  Device device_;
  cublasHandle_t plain_ = nullptr;
  cublasLtHandle_t light_ = nullptr;
  std::map<Key, std::unique_ptr<Plan>> plans_;
};

Library& library(Device device) {
  thread_local std::map<std::int16_t, Library> libraries;
  return libraries.try_emplace(device.index, device).first->second;
}

Key key_of(const Context& ctx, const Tensor& c, const Tensor& a, Transpose ta, const Tensor& b,
           Transpose tb, const Epilogue& epilogue) {
  Key key{};
  key.m = c.shape[0], key.n = c.shape[1];
  key.k = ta == Transpose::no ? a.shape[1] : a.shape[0];
  key.lda = leading(a), key.ldb = leading(b), key.ldc = leading(c);
  if (epilogue.pre) key.ld_pre = leading(epilogue.pre);
  key.align_a = alignment_of(a.data), key.align_b = alignment_of(b.data);
  key.align_c = alignment_of(c.data);
  key.in = a.dtype, key.out = c.dtype, key.ta = ta, key.tb = tb;
  key.tf32 = ctx.tf32 && a.dtype == DType::f32;
  key.deterministic = ctx.deterministic;
  key.epilogue = epilogue.kind;
  return key;
}

}  // namespace

void* workspace(Device device) {
  thread_local std::map<std::int16_t, Buffer> buffers;
  auto found = buffers.find(device.index);
  if (found == buffers.end())
    found = buffers.emplace(device.index, Buffer(kWorkspaceBytes, device)).first;
  return found->second.data();
}

void gemm(const Context& ctx, const Tensor& c, const Tensor& a, Transpose ta, const Tensor& b,
          Transpose tb, double alpha, Accumulate accumulate) {
  expect_on_device(ctx, a, b, c);
  const std::int64_t m = c.shape[0], n = c.shape[1];
  if (m == 0 || n == 0) return;
  const std::int64_t k = ta == Transpose::no ? a.shape[1] : a.shape[0];
  const CurrentDevice current(ctx.device);
  Library& cublas = library(ctx.device);
  const double keep = accumulate == Accumulate::add ? 1 : 0;
  if (c.dtype == DType::f64) {
    check_cublas(
        cublasGemmEx_64(cublas.plain(ctx), operation(tb), operation(ta), n, m, k, &alpha, b.data,
                        CUDA_R_64F, leading(b), a.data, CUDA_R_64F, leading(a), &keep, c.data,
                        CUDA_R_64F, leading(c), CUBLAS_COMPUTE_64F, CUBLAS_GEMM_DEFAULT),
        "a matrix product", ctx.device);
    return;
  }
  if (k > 0) {
    Plan& plan = cublas.plan(key_of(ctx, c, a, ta, b, tb, {}));
    if (plan.possible())
      return plan.run(ctx, cublas.light(),
                      {c, a, b, static_cast<float>(alpha), static_cast<float>(keep), {}});
  }
  // Odd strides or no depth at all: cuBLAS takes what its lighter library refuses.
  const float scale = static_cast<float>(alpha), factor = static_cast<float>(keep);
  const cublasComputeType_t compute =
      ctx.tf32 && a.dtype == DType::f32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
  check_cublas(
      cublasGemmEx_64(cublas.plain(ctx), operation(tb), operation(ta), n, m, k, &scale, b.data,
                      type_of(b.dtype), leading(b), a.data, type_of(a.dtype), leading(a), &factor,
                      c.data, type_of(c.dtype), leading(c), compute, CUBLAS_GEMM_DEFAULT),
      "a matrix product", ctx.device);
}

bool gemm_with(const Context& ctx, const Tensor& c, const Tensor& a, Transpose ta, const Tensor& b,
               Transpose tb, const Epilogue& epilogue) {
  expect_on_device(ctx, a, b, c, epilogue.bias, epilogue.pre);
  if (c.dtype == DType::f64 || c.count() == 0 || a.count() == 0) return false;
  const CurrentDevice current(ctx.device);
  Library& cublas = library(ctx.device);
  if (epilogue.pre && (alignment_of(epilogue.pre.data) < 16 || leading(epilogue.pre) % 8 != 0))
    return false;
  Plan& plan = cublas.plan(key_of(ctx, c, a, ta, b, tb, epilogue));
  if (!plan.possible()) return false;
  const Product product{c, a, b, 1, 0, epilogue};
  if (epilogue.kind == Epilogue::Kind::gelu_backward && plan.undecided()) {
    plan.choose(ctx, cublas.light(), product);
    Plan& alone = cublas.plan(key_of(ctx, c, a, ta, b, tb, {}));
    if (alone.possible() && faster_apart(ctx, cublas.light(), plan, alone, product)) plan.give_up();
    if (!plan.possible()) return false;
  }
  plan.run(ctx, cublas.light(), product);
  return true;
}

void gemm_batched(const Context& ctx, DType dtype, std::int64_t count, std::int64_t m,
                  std::int64_t n, std::int64_t k, double alpha, const BatchedMatrix& a,
                  const BatchedMatrix& b, const BatchedMatrix& c, Accumulate accumulate) {
  QF_EXPECTS(c.transpose == Transpose::no);
  if (count == 0 || m == 0 || n == 0) return;
  const CurrentDevice current(ctx.device);
  const cublasHandle_t handle = library(ctx.device).plain(ctx);
  dispatch_floating(dtype, [&]<class T>() {
    constexpr bool kDouble = std::is_same_v<T, double>;
    constexpr cudaDataType_t kType = kDouble ? CUDA_R_64F : CUDA_R_32F;
    const cublasComputeType_t compute = kDouble    ? CUBLAS_COMPUTE_64F
                                        : ctx.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32
                                                   : CUBLAS_COMPUTE_32F;
    const T scale = T(alpha), keep = accumulate == Accumulate::add ? T(1) : T(0);
    check_cublas(cublasGemmBatchedEx_64(handle, operation(b.transpose), operation(a.transpose), n,
                                        m, k, &scale, b.data, kType, b.row_stride, a.data, kType,
                                        a.row_stride, &keep, c.data, kType, c.row_stride, count,
                                        compute, CUBLAS_GEMM_DEFAULT),
                 "matrix products", ctx.device);
  });
}

}  // namespace quietformer::cuda
