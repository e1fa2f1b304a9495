#include "core/math.h"
#include "layers/cuda/operations.h"
#include "layers/cuda/rows.cuh"

namespace quietformer::cuda {
namespace {

constexpr int kFew = 32, kMany = 512;  // threads of a row: short rows, long rows
constexpr std::int64_t kShort = 1024;  // columns of a short row, at most
constexpr int kTotalThreads = 1024;    // of the sum over rows
constexpr int kBatch = 4;              // packs a thread asks memory for at once

/// e^(x - high). Where logits are stored in 16 bits the GPU's own exponential is exact enough.
template <class T>
__device__ Compute<T> relative_exp(Compute<T> x, Compute<T> high) {
  if constexpr (kSixteenBit<T>)
    return math::exp_affine(x, 1.0f, -high);
  else
    return math::exp(x - high);
}

template <class T>
struct Loss {
  using C = Compute<T>;
  C *row_loss, *row_lse;
  const T* logits;
  T* d_logits;  // null: no gradient wanted
  const std::int32_t* targets;
  const double* loss;          // [1]: valid targets
  const float* dynamic_scale;  // or null
  double scale;
  std::int64_t columns, stride;  // row stride of both; columns up to it get a gradient of 0
};

/// The larger one; NaN if either is. One instruction for floats.
__device__ inline float larger(float a, float b) {
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
}
__device__ inline double larger(double a, double b) {
  return Larger()(a, b);
}

/// kSize neighbouring elements of a row, all there.
template <class T, int kSize>
__device__ Wide<T, kSize> load_whole(const T* at) {
  if constexpr (kSize == 1)
    return {{widen(*at)}};
  else
    return load_pack(at);
}

/// kSize neighbouring elements, -inf beyond the row's end.
template <class T, int kSize>
__device__ Wide<T, kSize> load_logits(const T* row, int c, int columns) {
  constexpr Compute<T> kNothing = -math::kInfinity<Compute<T>>;
  Wide<T, kSize> x;
  if constexpr (kSize == 1)
    x.value[0] = c < columns ? widen(row[c]) : kNothing;
  else if (c < columns)
    x = load_pack(row + c);
#pragma unroll
  for (int j = 0; j < kSize; ++j)
    if (c + j >= columns) x.value[j] = kNothing;
  return x;
}

/// Sum of e^(x - high) over the elements that a thread has met, high the largest of them.
template <class T>
struct RunningSum {
  using C = Compute<T>;
  C high = -math::kInfinity<C>, sum = 0;

  template <int kCount>
  __device__ void add(const C (&x)[kCount]) {
    C highest = high;
#pragma unroll
    for (const C value : x) highest = larger(highest, value);
    if (highest == -math::kInfinity<C>) return;
    if (highest != high) sum *= relative_exp<T>(high, highest);  // also when highest is NaN
    high = highest;
#pragma unroll
    for (const C value : x) sum += relative_exp<T>(value, high);
  }
};

__device__ inline void copy_16_bytes(void* to, const void* from) {
  const auto at = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(from));
}

__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}

/// A block per row. ln sum exp(x) = high + log_sum, in two parts because their sum rounds off
/// log_sum when |x| is large. With kShared the row waits in shared memory between its two looks, so
/// that device memory is read once; every thread reads back what it copied itself. d_logits may
/// alias logits: each element is read and written by one thread.
template <class T, int kThreads, int kSize, bool kShared>
__global__ void __launch_bounds__(kThreads) loss_rows_kernel(Loss<T> p) {
  using C = Compute<T>;
  extern __shared__ __align__(16) unsigned char memory[];
  const std::int64_t row = blockIdx.x;
  const int columns = static_cast<int>(p.columns), stride = static_cast<int>(p.stride);
  const T* x = p.logits + row * p.stride;
  const int target = p.targets[row];
  const C picked = target >= 0 && target < columns ? widen(x[target]) : C(0);
  constexpr int kStep = kThreads * kSize;
  const int first = static_cast<int>(threadIdx.x) * kSize;
  if constexpr (kShared) {
    T* const copy = reinterpret_cast<T*>(memory);
    for (int c = first; c < columns; c += kStep) copy_16_bytes(copy + c, x + c);
    wait_for_copies();
    x = copy;
  }
  RunningSum<T> running;
  int c = first;
  for (; c + (kBatch - 1) * kStep + kSize <= columns; c += kBatch * kStep) {
    C batch[kBatch * kSize];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const Wide<T, kSize> pack = load_whole<T, kSize>(x + c + b * kStep);
#pragma unroll
      for (int j = 0; j < kSize; ++j) batch[b * kSize + j] = pack.value[j];
    }
    running.add(batch);
  }
  for (; c < columns; c += kStep) running.add(load_logits<T, kSize>(x, c, columns).value);
  const C high = block_reduce<kThreads>(running.high, Larger());
  C sum = running.high == -math::kInfinity<C> ? C(0)
                                              : running.sum * relative_exp<T>(running.high, high);
  sum = block_reduce<kThreads>(sum, Plus());
  const C log_sum = math::log(sum);
  if (threadIdx.x == 0) {
    p.row_lse[row] = high + log_sum;
    p.row_loss[row] =
        target >= columns ? math::kNaN<C> : (target < 0 ? C(0) : high - picked + log_sum);
  }
  if (p.d_logits == nullptr) return;
  const double scale = p.dynamic_scale != nullptr ? p.scale * *p.dynamic_scale : p.scale;
  const C factor = p.loss[1] > 0 ? C(scale / p.loss[1]) : C(0), share = factor / sum;
  T* const out = p.d_logits + row * p.stride;
  const auto store = [=](int at, const Wide<T, kSize>& pack) {
    if constexpr (kSize == 1)
      out[at] = narrow<T>(pack.value[0]);
    else
      store_pack(out + at, pack);
  };
  if (target < 0) {
    for (c = first; c < stride; c += kStep) store(c, {});
    return;
  }
#pragma unroll 4
  for (c = first; c + kSize <= columns; c += kStep) {
    Wide<T, kSize> pack = load_whole<T, kSize>(x + c);
#pragma unroll
    for (C& value : pack.value) value = share * relative_exp<T>(value, high);
    if (target - c >= 0 && target - c < kSize) {
#pragma unroll
      for (int j = 0; j < kSize; ++j) pack.value[j] -= c + j == target ? factor : C(0);
    }
    store(c, pack);
  }
  for (; c < stride; c += kStep) {
    Wide<T, kSize> pack = load_logits<T, kSize>(x, c, columns);
#pragma unroll
    for (int j = 0; j < kSize; ++j)
      pack.value[j] = c + j >= columns ? C(0)
                                       : share * relative_exp<T>(pack.value[j], high) -
                                             (c + j == target ? factor : C(0));
    store(c, pack);
  }
}

/// One block: loss[0] the mean over valid rows, loss[1] their number; with no row_loss the number
/// alone.
template <class C>
__global__ void __launch_bounds__(kTotalThreads)
    loss_total_kernel(double* loss, const C* __restrict__ row_loss,
                      const std::int32_t* __restrict__ targets, std::int64_t rows) {
  double sum = 0, valid = 0;
#pragma unroll 8
  for (std::int64_t r = threadIdx.x; r < rows; r += kTotalThreads) {
    if (row_loss != nullptr) sum += static_cast<double>(row_loss[r]);
    valid += targets[r] >= 0;
  }
  sum = block_reduce<kTotalThreads>(sum, Plus());
  valid = block_reduce<kTotalThreads>(valid, Plus());
  if (threadIdx.x != 0) return;
  if (row_loss != nullptr) loss[0] = valid > 0 ? sum / valid : 0;
  loss[1] = valid;
}

/// d_logits may alias logits: each element is read and written by one thread.
template <class T>
__global__ void __launch_bounds__(256) loss_backward_kernel(Loss<T> p) {
  using C = Compute<T>;
  const std::int64_t row = blockIdx.x, target = p.targets[row];
  const C factor = p.loss[1] > 0 ? C(p.scale / p.loss[1]) : C(0), lse = p.row_lse[row];
  const T* x = p.logits + row * p.stride;
  T* out = p.d_logits + row * p.stride;
#pragma unroll 4
  for (std::int64_t c = threadIdx.x; c < p.stride; c += 256) {
    C value = 0;
    if (c < p.columns && target >= 0)
      value = factor * relative_exp<T>(widen(x[c]), lse) - (c == target ? factor : C(0));
    out[c] = narrow<T>(value);
  }
}

/// Bytes of shared memory that a block may have on the device, which must be current.
std::int64_t shared_limit(Device device) {
  int bytes = 0;
  check_cuda(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device.index),
             "asking for the size of shared memory", device);
  return bytes;
}

template <class T, int kThreads, int kSize, bool kShared>
void launch_rows(const Context& ctx, const Loss<T>& p, std::int64_t rows) {
  const auto kernel = loss_rows_kernel<T, kThreads, kSize, kShared>;
  std::size_t shared = 0;
  if constexpr (kShared) {
    shared = static_cast<std::size_t>((p.columns * size_of(dtype_of<T>()) + 15) / 16 * 16);
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(shared)),
               "cross_entropy", ctx.device);
  }
  launch(ctx, "cross_entropy", {dim3(static_cast<unsigned>(rows)), dim3(kThreads), shared}, kernel,
         p);
}

template <class T, int kThreads>
void run_rows(const Context& ctx, const Loss<T>& p, std::int64_t rows) {
  constexpr int kSize = Pack<T>::kSize;
  constexpr std::int64_t kStatic = 1024;  // of the reductions
  const bool whole = p.stride % kSize == 0 && starts_pack(p.logits, p.d_logits);
  if (!whole) return launch_rows<T, kThreads, 1, false>(ctx, p, rows);
  if constexpr (kThreads == kMany)
    if (p.d_logits != nullptr &&
        p.columns * size_of(dtype_of<T>()) + kStatic <= shared_limit(ctx.device))
      return launch_rows<T, kThreads, kSize, true>(ctx, p, rows);
  launch_rows<T, kThreads, kSize, false>(ctx, p, rows);
}

template <class T>
Loss<T> describe(const Tensor& row_loss, const Tensor& row_lse, const Tensor& logits,
                 const Tensor& targets, const Tensor& loss) {
  Loss<T> p{};
  p.row_loss = row_loss.as<Compute<T>>(), p.row_lse = row_lse.as<Compute<T>>();
  p.logits = logits.as<T>(), p.targets = targets.as<std::int32_t>();
  p.loss = loss.as<double>();
  p.columns = columns_of(logits), p.stride = logits.stride[logits.shape.rank - 2];
  // Kernels count columns in 32 bits, a few steps beyond the end included.
  QF_EXPECTS(p.stride < (std::int64_t{1} << 30));
  QF_EXPECTS(rows_of(logits) <= INT32_MAX);  // a block each
  return p;
}

}  // namespace

void cross_entropy_forward(const Context& ctx, const Tensor& loss, const Tensor& row_loss,
                           const Tensor& row_lse, const Tensor& logits, const Tensor& targets,
                           const LossGradient& gradient) {
  expect_on_device(ctx, loss, row_loss, row_lse, logits, targets, gradient.d_logits);
  expect_on_device(ctx, gradient.dynamic_scale);
  const std::int64_t rows = rows_of(logits);
  const CurrentDevice current(ctx.device);
  dispatch_storage(logits.dtype, [&]<class T>() {
    using C = Compute<T>;
    const auto total = [&](const C* of) {
      launch(ctx, "cross_entropy_total", {dim3(1), dim3(kTotalThreads)}, loss_total_kernel<C>,
             loss.as<double>(), of, targets.as<std::int32_t>(), rows);
    };
    Loss<T> p = describe<T>(row_loss, row_lse, logits, targets, loss);
    if (gradient.d_logits) {
      p.d_logits = gradient.d_logits.as<T>(), p.scale = gradient.scale;
      p.dynamic_scale = gradient.dynamic_scale.as<float>();
      total(nullptr);
    }
    if (rows > 0) {
      if (p.columns <= kShort)
        run_rows<T, kFew>(ctx, p, rows);
      else
        run_rows<T, kMany>(ctx, p, rows);
    }
    total(row_loss.as<C>());
  });
}

void cross_entropy_backward(const Context& ctx, const Tensor& d_logits, const Tensor& logits,
                            const Tensor& targets, const Tensor& loss, const Tensor& row_lse,
                            double scale) {
  expect_on_device(ctx, d_logits, logits, targets, loss, row_lse);
  const std::int64_t rows = rows_of(logits);
  if (rows == 0) return;
  const CurrentDevice current(ctx.device);
  dispatch_storage(logits.dtype, [&]<class T>() {
    Loss<T> p = describe<T>({}, row_lse, logits, targets, loss);
    p.d_logits = d_logits.as<T>(), p.scale = scale;
    launch(ctx, "cross_entropy_backward", {dim3(static_cast<unsigned>(rows)), dim3(256)},
           loss_backward_kernel<T>, p);
  });
}

}  // namespace quietformer::cuda
