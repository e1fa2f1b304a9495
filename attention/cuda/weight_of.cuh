// Scores to weights where the score is a product, in backward: by the policy's quicker function
// where it has one (attention/normalizer/normalizer.h).
#pragma once

namespace quietformer::cuda {

/// The weight of a score x * factor, or, where weights are clipped, its share.
template <class N, class Row, class Parameters>
__device__ __forceinline__ float weight_of(float x, float factor, const Row& row,
                                           const Parameters& parameters) {
  if constexpr (N::clips && requires { N::share_of_product(x, factor, row, parameters); })
    return N::share_of_product(x, factor, row, parameters);
  else if constexpr (N::clips)
    return N::share(x * factor, row, parameters);
  else if constexpr (requires { N::weight_of_product(x, factor, row, parameters); })
    return N::weight_of_product(x, factor, row, parameters);
  else
    return N::weight(x * factor, row, parameters);
}

}  // namespace quietformer::cuda
