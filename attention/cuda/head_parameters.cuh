// Per-head parameters of a normaliser, as kernels read them.
#pragma once

#include "attention/normalizer/normalizer.h"

namespace quietformer::cuda {

/// How many a normaliser has.
template <class N>
inline constexpr int kParameters = static_cast<int>(N::parameters.size());

/// Those of one head: call.parameters, (H) each, or where null call.defaults.
template <class N, class A, class Call>
__device__ __forceinline__ typename N::template Parameters<A> load_parameters(const Call& call,
                                                                              int head) {
  A values[kMaxHeadParameters];
#pragma unroll
  for (int k = 0; k < kMaxHeadParameters; ++k)
    values[k] = call.parameters[k] != nullptr ? static_cast<A>(call.parameters[k][head])
                                              : static_cast<A>(call.defaults[k]);
  return N::load(values);
}

}  // namespace quietformer::cuda
