// Statistics of a model's parameters.
#pragma once

#include <string>
#include <vector>

#include "analysis/moments.h"
#include "core/parameter.h"

namespace quietformer {

struct WeightStatistics {
  std::string name;
  Moments moments;  // outside = numbers beyond 6 sigma of the tensor's own mean
};

/// Of one contiguous f32 or f64 tensor on the host; two passes. Independent of threads.
WeightStatistics weight_statistics(const Context& ctx, const std::string& name,
                                   const Tensor& value);

/// Of every parameter's master, in order, with ctx.threads of the host: parameters on a GPU are
/// copied one by one.
std::vector<WeightStatistics> weight_statistics(const Context& ctx,
                                                const ParameterList& parameters);

}  // namespace quietformer
