#include "analysis/moments.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "analysis/merge.h"
#include "core/math.h"
#include "core/parallel.h"

namespace quietformer {
namespace {

constexpr int kBlock = 1024;                // 8 KiB of doubles: stays in the first-level cache
constexpr std::int64_t kChunk = 64 * 1024;  // per task, a multiple of kBlock

// The count of what is out of bounds, only called when something is.
template <class T>
void count_outliers(const T* x, int n, const OutlierLimits& limits, Moments& block) {
  int beyond = 0, outside = 0;
#pragma omp simd reduction(+ : beyond, outside)
  for (int i = 0; i < n; ++i) {
    const double value = x[i];
    beyond += std::abs(value) > limits.magnitude ? 1 : 0;
    outside += (value < limits.low ? 1 : 0) + (value > limits.high ? 1 : 0);
  }
  block.beyond_magnitude = beyond;
  block.outside = outside;
}

template <class T>
Moments block_moments(const T* x, int n, const OutlierLimits& limits) {
  // Sums are taken relative to the first number: exact zero for a constant block.
  const double shift = x[0];
  double sum = 0;
  T low = x[0], high = x[0];
#pragma omp simd reduction(+ : sum) reduction(min : low) reduction(max : high)
  for (int i = 0; i < n; ++i) {
    sum += static_cast<double>(x[i]) - shift;
    low = x[i] < low ? x[i] : low;
    high = x[i] > high ? x[i] : high;
  }
  Moments block;
  block.count = n;
  block.mean = shift + sum / n;
  double m2 = 0, m3 = 0, m4 = 0;
#pragma omp simd reduction(+ : m2, m3, m4)
  for (int i = 0; i < n; ++i) {
    const double d = static_cast<double>(x[i]) - block.mean;
    const double d2 = d * d;
    m2 += d2;
    m3 += d2 * d;
    m4 += d2 * d2;
  }
  block.m2 = m2, block.m3 = m3, block.m4 = m4;
  block.max_abs = std::max(std::abs(static_cast<double>(low)), std::abs(static_cast<double>(high)));
  if (!std::isfinite(m2)) {
    // Comparisons pass over NaN; a NaN must show in the maximum too.
    if (std::any_of(x, x + n, [](T value) { return std::isnan(value); }))
      block.max_abs = math::kNaN<double>;
  }
  if (!(block.max_abs <= limits.magnitude) || low < limits.low || high > limits.high)
    count_outliers(x, n, limits, block);
  return block;
}

template <class T>
Moments contiguous_moments(const T* x, std::int64_t count, const OutlierLimits& limits) {
  Moments total;
  for (std::int64_t i = 0; i < count; i += kBlock)
    total.merge(
        block_moments(x + i, static_cast<int>(std::min<std::int64_t>(kBlock, count - i)), limits));
  return total;
}

}  // namespace

double Moments::average() const {
  return count > 0 ? mean : math::kNaN<double>;
}

double Moments::variance() const {
  return count > 0 ? variance_of(*this) : math::kNaN<double>;
}

double Moments::skewness() const {
  return count > 0 ? skewness_of(*this) : math::kNaN<double>;
}

double Moments::kurtosis() const {
  return count > 0 ? kurtosis_of(*this) : math::kNaN<double>;
}

void Moments::merge(const Moments& other) {
  merge_moments(*this, other);
}

template <class T>
Moments moments_of(const ValueRows<T>& rows, const OutlierLimits& limits) {
  if (rows.keep == nullptr && rows.stride == rows.width)
    return contiguous_moments(rows.data, rows.rows * rows.width, limits);
  T block[kBlock];
  int filled = 0;
  Moments total;
  for (std::int64_t r = 0; r < rows.rows; ++r) {
    if (rows.keep != nullptr && rows.keep[r] == 0) continue;
    const T* row = rows.data + r * rows.stride;
    for (std::int64_t i = 0; i < rows.width;) {
      const int part = static_cast<int>(std::min<std::int64_t>(kBlock - filled, rows.width - i));
      std::copy_n(row + i, part, block + filled);
      filled += part;
      i += part;
      if (filled == kBlock) {
        total.merge(block_moments(block, filled, limits));
        filled = 0;
      }
    }
  }
  if (filled > 0) total.merge(block_moments(block, filled, limits));
  return total;
}

template Moments moments_of(const ValueRows<float>&, const OutlierLimits&);
template Moments moments_of(const ValueRows<double>&, const OutlierLimits&);

Moments moments_of(const Context& ctx, const Tensor& tensor, const OutlierLimits& limits) {
  QF_EXPECTS(tensor.contiguous());
  const std::int64_t count = tensor.count();
  std::vector<Moments> parts(static_cast<std::size_t>((count + kChunk - 1) / kChunk));
  dispatch_floating(tensor.dtype, [&]<class T>() {
    const T* values = tensor.as<T>();
    parallel_chunks(ctx, static_cast<std::int64_t>(parts.size()), [&](std::int64_t i, int) {
      parts[static_cast<std::size_t>(i)] =
          contiguous_moments(values + i * kChunk, std::min(kChunk, count - i * kChunk), limits);
    });
  });
  Moments total;
  for (const Moments& part : parts) total.merge(part);
  return total;
}

}  // namespace quietformer
