// Sums and maxima over the threads of a warp or a block, in an order that depends on the number of
// threads alone. For kernels.
#pragma once

#include "core/cuda/launch.h"

namespace quietformer::cuda {

inline constexpr int kWarp = 32;

struct Plus {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};

/// The larger one; NaN if either is.
struct Larger {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a > b || a != a ? a : b;
  }
};

/// Over the lanes of a whole warp; every lane gets the result.
template <class T, class Combine>
__device__ T warp_reduce(T value, Combine combine) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2)
    value = combine(value, __shfl_xor_sync(0xffffffffu, value, distance));
  return value;
}

/// Over a block of kThreads, one-dimensional, all of whose threads call; every thread gets the
/// result. May be called again at once.
template <int kThreads, class T, class Combine>
__device__ T block_reduce(T value, Combine combine) {
  static_assert(kThreads % kWarp == 0 && kThreads <= kWarp * kWarp);
  constexpr int kWarps = kThreads / kWarp;
  __shared__ T part[kWarps];
  value = warp_reduce(value, combine);
  if (threadIdx.x % kWarp == 0) part[threadIdx.x / kWarp] = value;
  __syncthreads();
  value = part[0];
#pragma unroll
  for (int w = 1; w < kWarps; ++w) value = combine(value, part[w]);
  __syncthreads();  // part is free again
  return value;
}

}  // namespace quietformer::cuda
