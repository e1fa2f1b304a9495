// How cuBLASLt does one product: its descriptors and the algorithm for it. For gemm.cu.
#pragma once

#include <cublasLt.h>
#include <cublas_v2.h>

#include <algorithm>
#include <array>
#include <compare>
#include <limits>
#include <string>

#include "core/buffer.h"
#include "core/cuda/gemm.h"
#include "core/cuda/launch.h"
#include "core/cuda/timer.h"
#include "core/cuda/workspace.h"

namespace quietformer::cuda {

inline void check_cublas(cublasStatus_t status, std::string_view what, Device device) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw RunError(std::string(what) + " on cuda:" + std::to_string(device.index) + ": " +
                 cublasGetStatusString(status));
}

inline cublasOperation_t operation(Transpose transpose) {
  return transpose == Transpose::yes ? CUBLAS_OP_T : CUBLAS_OP_N;
}

/// Row stride as cuBLAS accepts it: at least 1 also where a matrix is empty.
inline std::int64_t leading(const Tensor& t) {
  return std::max<std::int64_t>({1, t.stride[0], t.shape[1]});
}

inline cudaDataType_t type_of(DType dtype) {
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
inline std::uint32_t alignment_of(const void* data) {
  const auto at = reinterpret_cast<std::uintptr_t>(data) | 256;
  return static_cast<std::uint32_t>(at & (~at + 1));
}

/// Everything that the choice of an algorithm depends on.
struct Key {
  std::int64_t m, n, k, lda, ldb, ldc, ld_pre;
  std::uint32_t align_a, align_b, align_c;
  DType in, out;
  Transpose ta, tb;
  bool tf32, deterministic;
  Epilogue::Kind epilogue;
  auto operator<=>(const Key&) const = default;
};

constexpr int kCandidates = 8;         // algorithms that are timed
constexpr int kRounds = 4;             // the first one warms up
constexpr double kWorthTiming = 2e10;  // operations of a product: some 30 microseconds
constexpr double kNoise = 0.99;        // less than this share of a time is faster

/// Milliseconds that the GPU takes for `work`.
template <class Work>
double timed(const Context& ctx, const Work& work) {
  Timer timer(ctx);
  timer.start();
  work();
  timer.stop();
  return timer.milliseconds();
}

/// One product of f32 or less.
struct Product {
  Tensor c, a, b;
  float alpha = 1, keep = 0;
  Epilogue epilogue;
};

/// Descriptors of a product and the algorithm for it: the first one that cuBLASLt names or, where
/// the last bits may differ from run to run, the fastest of the first few.
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
    find_candidates(handle, key);
  }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  ~Plan() {
    for (const cublasLtMatrixLayout_t layout : {left_, right_, out_})
      if (layout != nullptr) cublasLtMatrixLayoutDestroy(layout);
    if (product_ != nullptr) cublasLtMatmulDescDestroy(product_);
  }

  bool possible() const { return count_ > 0; }

  /// Whether choose() still has to look for the fastest candidate.
  bool undecided() const { return undecided_; }
  /// What the choice takes, once there was one.
  double milliseconds() const { return milliseconds_; }
  void give_up() { count_ = 0; }

  /// Times the candidates on the operands themselves; where C is added to, results go elsewhere.
  void choose(const Context& ctx, cublasLtHandle_t handle, const Product& p) {
    undecided_ = false;
    Buffer elsewhere;
    void* out = p.c.data;
    if (p.keep != 0) {
      const std::int64_t elements = (p.c.shape[0] - 1) * leading(p.c) + p.c.shape[1];
      try {
        elsewhere = Buffer(elements * size_of(p.c.dtype), device_);
      } catch (const RunError&) {  // memory is short: the first one is good enough
        count_ = 1;
        return;
      }
      out = elsewhere.data();
    }
    std::array<double, kCandidates> times;
    times.fill(std::numeric_limits<double>::infinity());
    for (int round = 0; round < kRounds; ++round)
      for (std::size_t i = 0; i < count_; ++i) {
        cublasStatus_t status{};
        const double time =
            timed(ctx, [&] { status = multiply(ctx, handle, candidates_[i], p, out); });
        if (round > 0 && status == CUBLAS_STATUS_SUCCESS) times[i] = std::min(times[i], time);
      }
    std::size_t fastest = 0;
    for (std::size_t i = 1; i < count_; ++i)
      if (times[i] < times[fastest]) fastest = i;
    if (times[fastest] > kNoise * times.front()) fastest = 0;
    candidates_.front() = candidates_[fastest];
    milliseconds_ = times[fastest];
    count_ = 1;
  }

  void run(const Context& ctx, cublasLtHandle_t handle, const Product& p) {
    if (undecided_) choose(ctx, handle, p);
    check(multiply(ctx, handle, candidates_.front(), p, p.c.data));
  }

 private:
  cublasStatus_t multiply(const Context& ctx, cublasLtHandle_t handle,
                          const cublasLtMatmulAlgo_t& algorithm, const Product& p, void* out) {
    if (p.epilogue.bias) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.epilogue.bias.data);
    if (p.epilogue.pre) set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, p.epilogue.pre.data);
    return cublasLtMatmul(handle, product_, &p.alpha, p.b.data, left_, p.a.data, right_, &p.keep,
                          p.c.data, out_, out, out_, &algorithm, workspace(ctx.device),
                          kWorkspaceBytes, ctx.stream);
  }

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

  void find_candidates(cublasLtHandle_t handle, const Key& key) {
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
    cublasLtMatmulHeuristicResult_t found[kCandidates]{};
    int count = 0;
    undecided_ =
        !key.deterministic && 2.0 * double(key.m) * double(key.n) * double(key.k) >= kWorthTiming;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(handle, product_, left_, right_, out_, out_, preference,
                                       undecided_ ? kCandidates : 1, found, &count);
    cublasLtMatmulPreferenceDestroy(preference);
    if (status != CUBLAS_STATUS_SUCCESS) return;
    for (int i = 0; i < count; ++i)
      if (found[i].state == CUBLAS_STATUS_SUCCESS) candidates_[count_++] = found[i].algo;
  }

  Device device_;
  cublasLtMatmulDesc_t product_ = nullptr;
  cublasLtMatrixLayout_t left_ = nullptr, right_ = nullptr, out_ = nullptr;
  std::array<cublasLtMatmulAlgo_t, kCandidates> candidates_{};
  std::size_t count_ = 0;  // 1 once chosen, 0 where there is none
  bool undecided_ = false;
  double milliseconds_ = 0;
};

/// Whether a product and then a pass that reads its result and `pre` take less time than a product
/// with that in its epilogue. The pass moves half as much again as a copy.
inline bool faster_apart(const Context& ctx, cublasLtHandle_t handle, const Plan& together,
                         Plan& alone, const Product& p) {
  if (alone.undecided()) alone.choose(ctx, handle, {p.c, p.a, p.b, p.alpha, p.keep, {}});
  const auto bytes = [&](std::int64_t elements) {
    return static_cast<std::size_t>(elements * size_of(p.c.dtype));
  };
  double copy = std::numeric_limits<double>::infinity();
  for (int round = 0; round < kRounds; ++round)
    copy =
        std::min(copy, timed(ctx, [&] {
                   check_cuda(cudaMemcpy2DAsync(p.c.data, bytes(leading(p.c)), p.epilogue.pre.data,
                                                bytes(leading(p.epilogue.pre)), bytes(p.c.shape[1]),
                                                static_cast<std::size_t>(p.c.shape[0]),
                                                cudaMemcpyDeviceToDevice, ctx.stream),
                              "timing a product", ctx.device);
                 }));
  return alone.milliseconds() > 0 && alone.milliseconds() + 1.5 * copy < together.milliseconds();
}

}  // namespace quietformer::cuda
