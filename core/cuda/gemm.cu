#include "core/cuda/gemm.h"

#include <cublasLt.h>
#include <cublas_v2.h>

#include <algorithm>
#include <compare>
#include <map>
#include <memory>

#include "core/buffer.h"
#include "core/cuda/launch.h"
#include "core/cuda/workspace.h"

namespace quietformer::cuda {
namespace {

void check_cublas(cublasStatus_t status, std::string_view what, Device device) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw RunError(std::string(what) + " on cuda:" + std::to_string(device.index) + ": " +
                 cublasGetStatusString(status));
}

cublasOperation_t operation(Transpose transpose) {
  return transpose == Transpose::yes ? CUBLAS_OP_T : CUBLAS_OP_N;
}

/// Row stride as cuBLAS accepts it: at least 1 also where a matrix is empty.
std::int64_t leading(const Tensor& t) {
  return std::max<std::int64_t>({1, t.stride[0], t.shape[1]});
}

cudaDataType_t type_of(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return CUDA_R_64F;
    case DType::f32:
      return CUDA_R_32F;
    case DType::bf16:
      return CUDA_R_16BF;
    default:
      QF_EXPECTS(dtype == DType::f16);
      return CUDA_R_16F;
  }
}

/// Of an address, up to 256 bytes.
std::uint32_t alignment_of(const void* data) {
  const auto at = reinterpret_cast<std::uintptr_t>(data) | 256;
  return static_cast<std::uint32_t>(at & (~at + 1));
}

/// Everything that the choice of an algorithm depends on.
struct Key {
  std::int64_t m, n, k, lda, ldb, ldc, ld_pre;
  std::uint32_t align_a, align_b, align_c;
  DType in, out;
  Transpose ta, tb;
  bool tf32;
  Epilogue::Kind epilogue;
  auto operator<=>(const Key&) const = default;
};

/// Descriptors of a product and the algorithm for it.
class Plan {
 public:
  Plan(cublasLtHandle_t handle, const Key& key, Device device) : device_(device) {
    check(cublasLtMatmulDescCreate(
        &product_, key.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, CUDA_R_32F));
    // cuBLASLt stores columns together: it sees C^T = op(B)^T op(A)^T.
    set(CUBLASLT_MATMUL_DESC_TRANSA, operation(key.tb));
    set(CUBLASLT_MATMUL_DESC_TRANSB, operation(key.ta));
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue(key.epilogue));
    if (key.epilogue != Epilogue::Kind::none && key.epilogue != Epilogue::Kind::bias)
      set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, key.ld_pre);
    const auto layout = [&](cublasLtMatrixLayout_t& made, DType dtype, Transpose transpose,
                            std::int64_t rows, std::int64_t columns, std::int64_t ld) {
      if (transpose == Transpose::yes) std::swap(rows, columns);
      check(cublasLtMatrixLayoutCreate(&made, type_of(dtype), static_cast<std::uint64_t>(columns),
                                       static_cast<std::uint64_t>(rows), ld));
    };
    layout(left_, key.in, key.tb, key.k, key.n, key.ldb);
    layout(right_, key.in, key.ta, key.m, key.k, key.lda);
    layout(out_, key.out, Transpose::no, key.m, key.n, key.ldc);
    choose(handle, key);
  }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  ~Plan() {
    for (const cublasLtMatrixLayout_t layout : {left_, right_, out_})
      if (layout != nullptr) cublasLtMatrixLayoutDestroy(layout);
    if (product_ != nullptr) cublasLtMatmulDescDestroy(product_);
  }

  bool possible() const { return possible_; }

  void run(const Context& ctx, cublasLtHandle_t handle, const Tensor& c, const Tensor& a,
           const Tensor& b, float alpha, float keep, const Epilogue& epilogue) {
    if (epilogue.bias) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, epilogue.bias.data);
    if (epilogue.pre) set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, epilogue.pre.data);
    check(cublasLtMatmul(handle, product_, &alpha, b.data, left_, a.data, right_, &keep, c.data,
                         out_, c.data, out_, &algorithm_, workspace(ctx.device), kWorkspaceBytes,
                         ctx.stream));
  }

 private:
  static cublasLtEpilogue_t epilogue(Epilogue::Kind kind) {
    switch (kind) {
      case Epilogue::Kind::none:
        return CUBLASLT_EPILOGUE_DEFAULT;
      case Epilogue::Kind::bias:
        return CUBLASLT_EPILOGUE_BIAS;
      case Epilogue::Kind::bias_gelu:
        return CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
      case Epilogue::Kind::gelu_backward:
        return CUBLASLT_EPILOGUE_DGELU;
    }
    return CUBLASLT_EPILOGUE_DEFAULT;
  }

  void check(cublasStatus_t status) const { check_cublas(status, "a matrix product", device_); }

  template <class T>
  void set(cublasLtMatmulDescAttributes_t attribute, const T& value) {
    check(cublasLtMatmulDescSetAttribute(product_, attribute, &value, sizeof(value)));
  }

  void choose(cublasLtHandle_t handle, const Key& key) {
    // The choice may look at whether there are addresses, not at which.
    void* const somewhere = workspace(device_);
    if (key.epilogue == Epilogue::Kind::bias || key.epilogue == Epilogue::Kind::bias_gelu)
      set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, somewhere);
    if (key.ld_pre > 0) set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, somewhere);
    cublasLtMatmulPreference_t preference = nullptr;
    check(cublasLtMatmulPreferenceCreate(&preference));
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
      cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value));
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<std::uint64_t>(kWorkspaceBytes));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.align_b);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.align_a);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.align_c);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.align_c);
    cublasLtMatmulHeuristicResult_t found{};
    int count = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        handle, product_, left_, right_, out_, out_, preference, 1, &found, &count);
    cublasLtMatmulPreferenceDestroy(preference);
    possible_ =
        status == CUBLAS_STATUS_SUCCESS && count == 1 && found.state == CUBLAS_STATUS_SUCCESS;
    algorithm_ = found.algo;
  }

  Device device_;
  cublasLtMatmulDesc_t product_ = nullptr;
  cublasLtMatrixLayout_t left_ = nullptr, right_ = nullptr, out_ = nullptr;
  cublasLtMatmulAlgo_t algorithm_{};
  bool possible_ = false;
};

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
      return plan.run(ctx, cublas.light(), c, a, b, static_cast<float>(alpha),
                      static_cast<float>(keep), {});
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
  plan.run(ctx, cublas.light(), c, a, b, 1, 0, epilogue);
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
