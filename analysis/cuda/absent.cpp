// analysis/cuda without CUDA: takes the place of the .cu files in builds with QUIETFORMER_CUDA=OFF.
#include "analysis/cuda/operations.h"
#include "analysis/quantization.h"
#include "core/cuda/memory.h"

namespace quietformer::cuda {

std::int64_t parts_of_unit(const SiteCut&, DType) {
  throw RunError(unavailable());
}
void site_moments(const Context&, Moments*, const Tensor&, const SiteCut&, const Tensor&,
                  const OutlierLimits*) {
  throw RunError(unavailable());
}
void add_samples(const Context&, std::span<const SiteParts>) {
  throw RunError(unavailable());
}
void fake_quantize(const Context&, const Tensor&, const Tensor&, const Grid&) {
  throw RunError(unavailable());
}
void observe(const Context&, const ValueCounts&, const Tensor&) {
  throw RunError(unavailable());
}

}  // namespace quietformer::cuda
