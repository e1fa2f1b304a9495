#include "analysis/weight_statistics.h"

#include <cmath>

#include "core/cuda/memory.h"

namespace quietformer {

WeightStatistics weight_statistics(const Context& ctx, const std::string& name,
                                   const Tensor& value) {
  WeightStatistics statistics{name, moments_of(ctx, value, {})};
  const double mean = statistics.moments.mean, sigma = std::sqrt(statistics.moments.variance());
  // A pass of its own, because the tensor's sigma is only known now.
  if (std::isfinite(sigma)) {
    const OutlierLimits limits{.low = mean - 6 * sigma, .high = mean + 6 * sigma};
    statistics.moments.outside = moments_of(ctx, value, limits).outside;
  }
  return statistics;
}

std::vector<WeightStatistics> weight_statistics(const Context& ctx,
                                                const ParameterList& parameters) {
  Context host = ctx;
  host.device = {};
  std::vector<WeightStatistics> all;
  for (const Parameter& p : parameters.all()) {
    OwnedTensor copy;
    Tensor master = p.master;
    if (master.device.type == DeviceType::cuda) {
      copy = OwnedTensor(master.dtype, master.shape);
      cuda::copy(copy, master);
      master = copy;
    }
    all.push_back(weight_statistics(host, p.name, master));
  }
  return all;
}

}  // namespace quietformer
