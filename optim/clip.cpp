#include "optim/clip.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/cuda/memory.h"
#include "core/parallel.h"
#include "optim/cuda/operations.h"

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
    : grads_(parameters.grads().flat(parameters.master_dtype())), clip_(clip) {
  const std::int64_t chunks = (grads_.count() + kChunk - 1) / kChunk;
  if (grads_.device.type == DeviceType::cuda)
    gpu_partial_ = OwnedTensor(DType::f64, {chunks + 1}, grads_.device);
  else
    partial_.resize(static_cast<std::size_t>(chunks));
}

double GradientClip::squares(const Context& ctx) {
  QF_EXPECTS(ctx.device == grads_.device);
  double sum = 0;
  if (ctx.device.type == DeviceType::cuda) {
    const Tensor partial = gpu_partial_;
    cuda::sum_of_squares(ctx, partial, grads_);
    cuda::copy(Tensor(&sum, DType::f64, {1}), partial.slice(0, partial.count() - 1, 1));
    return sum;
  }
  const std::int64_t count = grads_.count();
  dispatch_floating(grads_.dtype, [&]<class T>() {
    const T* values = grads_.as<T>();
    parallel_chunks(ctx, static_cast<std::int64_t>(partial_.size()), [&](std::int64_t i, int) {
      partial_[static_cast<std::size_t>(i)] =
          sum_of_squares(values + i * kChunk, std::min(kChunk, count - i * kChunk));
    });
  });
  for (double part : partial_) sum += part;
  return sum;
}

void GradientClip::measure(const Context& ctx, StepState& state) {
  QF_EXPECTS(ctx.device.type == DeviceType::cuda && ctx.device == grads_.device);
  cuda::sum_of_squares(ctx, gpu_partial_, grads_, state.tensor(), clip_);
}

ClipResult GradientClip::measure(const Context& ctx) {
  ClipResult result;
  result.norm = std::sqrt(squares(ctx));
  if (clip_ > 0) {
    // The 1e-6 is torch's, kept so that traces agree.
    result.scale = std::isfinite(result.norm) ? std::min(1.0, clip_ / (result.norm + 1e-6))
                                              : std::numeric_limits<double>::quiet_NaN();
  }
  return result;
}

}  // namespace quietformer
