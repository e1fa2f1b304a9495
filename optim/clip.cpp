#include "optim/clip.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/parallel.h"

namespace quietformer {
namespace {

constexpr std::int64_t kChunk = 1 << 15;

template <class T>
double sum_of_squares(const T* values, std::int64_t count) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < count; ++i) {
    const double value = static_cast<double>(values[i]);
    sum += value * value;
  }
  return sum;
}

}  // namespace

GradientClip::GradientClip(const ParameterList& parameters, double clip)
    : grads_(parameters.grads().flat(parameters.dtype())),
      clip_(clip),
      partial_(static_cast<std::size_t>((grads_.count() + kChunk - 1) / kChunk)) {}

ClipResult GradientClip::measure(const Context& ctx) {
  const std::int64_t count = grads_.count();
  dispatch_floating(grads_.dtype, [&]<class T>() {
    const T* values = grads_.as<T>();
    parallel_chunks(ctx, static_cast<std::int64_t>(partial_.size()), [&](std::int64_t i, int) {
      partial_[static_cast<std::size_t>(i)] =
          sum_of_squares(values + i * kChunk, std::min(kChunk, count - i * kChunk));
    });
  });
  double sum = 0;
  for (double part : partial_) sum += part;
  ClipResult result;
  result.norm = std::sqrt(sum);
  if (clip_ > 0) {
    // The 1e-6 is torch's, kept so that traces agree.
    result.scale = std::isfinite(result.norm) ? std::min(1.0, clip_ / (result.norm + 1e-6))
                                              : std::numeric_limits<double>::quiet_NaN();
  }
  return result;
}

}  // namespace quietformer
