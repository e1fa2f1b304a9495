#include "layers/cross_entropy.h"

#include <fmt/format.h>

#include <cmath>

#include "core/math.h"
#include "layers/cuda/operations.h"
#include "layers/rows.h"

namespace quietformer {
namespace {

template <class T>
T maximum(const T* x, std::int64_t n) {
  constexpr std::int64_t kLanes = 16;
  T lane[kLanes];
  for (T& value : lane) value = -math::kInfinity<T>;
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (std::int64_t l = 0; l < kLanes; ++l) lane[l] = x[i + l] > lane[l] ? x[i + l] : lane[l];
  T high = -math::kInfinity<T>;
  for (; i < n; ++i) high = x[i] > high ? x[i] : high;
  for (const T value : lane) high = value > high ? value : high;
  return high;
}

/// ln sum exp(x) = high + log_sum, in two parts because their sum rounds off log_sum when |x| is
/// large. One look at memory: the second loop reads the cache.
template <class T>
struct LogSumExp {
  T high, log_sum;
  LogSumExp(const T* x, std::int64_t n) : high(maximum(x, n)) {
    const T shift = high;
    log_sum = math::log(lane_sum<T>(n, [=](std::int64_t i) { return math::exp(x[i] - shift); }));
  }
};

void check_shapes(const Tensor& logits, const Tensor& targets, const Tensor& row_lse) {
  const bool strided = logits.device.type == DeviceType::cuda && logits.shape.rank == 2 &&
                       logits.stride[1] == 1 && logits.stride[0] >= logits.shape[1];
  QF_EXPECTS(logits.shape.rank >= 2 && (logits.contiguous() || strided));
  QF_EXPECTS(targets.contiguous() && targets.dtype == DType::i32);
  QF_EXPECTS(targets.count() == rows_of(logits) && row_lse.count() == rows_of(logits));
  QF_EXPECTS(row_lse.dtype == accumulation_dtype(logits.dtype));
}

void check_gradient(const Tensor& d_logits, const Tensor& logits) {
  QF_EXPECTS(d_logits.shape == logits.shape && d_logits.dtype == logits.dtype);
  for (int i = 0; i < logits.shape.rank; ++i)
    QF_EXPECTS(logits.shape[i] == 1 || d_logits.stride[i] == logits.stride[i]);
}

}  // namespace

void cross_entropy_forward(const Context& ctx, const Tensor& loss, const Tensor& row_loss,
                           const Tensor& row_lse, const Tensor& logits, const Tensor& targets,
                           const LossGradient& gradient) {
  check_shapes(logits, targets, row_lse);
  QF_EXPECTS(loss.dtype == DType::f64 && loss.count() == 2 && row_loss.count() == row_lse.count());
  QF_EXPECTS(row_loss.dtype == row_lse.dtype);
  if (gradient.d_logits) check_gradient(gradient.d_logits, logits);
  QF_EXPECTS(!gradient.dynamic_scale ||
             (gradient.dynamic_scale.dtype == DType::f32 && gradient.dynamic_scale.count() == 1));
  if (ctx.device.type == DeviceType::cuda)
    return cuda::cross_entropy_forward(ctx, loss, row_loss, row_lse, logits, targets, gradient);
  QF_EXPECTS(!gradient.dynamic_scale);
  const std::int64_t rows = rows_of(logits), n = columns_of(logits);
  const std::int32_t* target = targets.as<std::int32_t>();
  dispatch_floating(logits.dtype, [&]<class T>() {
    parallel_for(ctx, rows, row_grain(n), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) {
        if (target[r] >= n)
          throw InputError(
              fmt::format("target {}: id {}, expected below {} (model.vocab)", r, target[r], n));
        const T* row = logits.as<T>() + r * n;
        const LogSumExp<T> lse(row, n);
        row_lse.as<T>()[r] = lse.high + lse.log_sum;
        row_loss.as<T>()[r] = target[r] < 0 ? T(0) : lse.high - row[target[r]] + lse.log_sum;
      }
    });
    double sum = 0, valid = 0;
    for (std::int64_t r = 0; r < rows; ++r) {
      sum += double(row_loss.as<T>()[r]);
      valid += target[r] >= 0;
    }
    loss.as<double>()[0] = valid > 0 ? sum / valid : 0;
    loss.as<double>()[1] = valid;
  });
  if (gradient.d_logits)
    cross_entropy_backward(ctx, gradient.d_logits, logits, targets, loss, row_lse, gradient.scale);
}

void cross_entropy_backward(const Context& ctx, const Tensor& d_logits, const Tensor& logits,
                            const Tensor& targets, const Tensor& loss, const Tensor& row_lse,
                            double scale) {
  check_shapes(logits, targets, row_lse);
  check_gradient(d_logits, logits);
  QF_EXPECTS(loss.dtype == DType::f64);
  if (ctx.device.type == DeviceType::cuda)
    return cuda::cross_entropy_backward(ctx, d_logits, logits, targets, loss, row_lse, scale);
  const std::int64_t n = columns_of(logits);
  const std::int32_t* target = targets.as<std::int32_t>();
  const double valid = loss.as<double>()[1];
  dispatch_floating(logits.dtype, [&]<class T>() {
    const T factor = T(valid > 0 ? scale / valid : 0);
    parallel_for(ctx, rows_of(logits), row_grain(n), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) {
        T* out = d_logits.as<T>() + r * n;
        const T* in = logits.as<T>() + r * n;
        const T lse = row_lse.as<T>()[r];
        if (target[r] < 0) {
          simd_for(0, n, [=](std::int64_t i) { out[i] = T(0); });
          continue;
        }
        simd_for(0, n, [=](std::int64_t i) { out[i] = factor * math::exp(in[i] - lse); });
        out[target[r]] -= factor;
      }
    });
  });
}

}  // namespace quietformer
