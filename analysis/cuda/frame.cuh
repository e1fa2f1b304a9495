// From where and in which unit the powers of a part's numbers are added up. For moments.cu.
#pragma once

#include "analysis/moments.h"
#include "core/cuda/reduce.cuh"

namespace quietformer::cuda {

/// The power of two that brings `radius` near 1, without the extremes of the type.
__device__ inline int exponent_of(float radius) {
  return max(-120, min(120, (__float_as_int(radius) >> 23 & 0xff) - 127));
}
__device__ inline int exponent_of(double radius) {
  return isfinite(radius) && radius > 0 ? max(-900, min(900, ilogb(radius))) : 0;
}
__device__ inline float power_of_two(int exponent, float) {
  return __int_as_float((127 + exponent) << 23);
}
__device__ inline double power_of_two(int exponent, double) {
  return ldexp(1.0, exponent);
}

/// Sums of powers of 2^-exponent (x - centre).
struct Powers {
  double s1 = 0, s2 = 0, s3 = 0, s4 = 0;
};

/// All four sums over a warp by six exchanges: halves and quarters of the warp first share out
/// which sum they go on with. Lanes from 8 k on get sum k.
__device__ inline double warp_powers(const Powers& p) {
  constexpr unsigned kAll = 0xffffffffu;
  const bool upper = (threadIdx.x & 16) != 0, odd = (threadIdx.x & 8) != 0;
  const double a = (upper ? p.s3 : p.s1) + __shfl_xor_sync(kAll, upper ? p.s1 : p.s3, 16);
  const double b = (upper ? p.s4 : p.s2) + __shfl_xor_sync(kAll, upper ? p.s2 : p.s4, 16);
  double sum = (odd ? b : a) + __shfl_xor_sync(kAll, odd ? a : b, 8);
#pragma unroll
  for (int distance = 4; distance > 0; distance /= 2) sum += __shfl_xor_sync(kAll, sum, distance);
  return sum;
}

/// Without a frame: x itself, which saves an operation for each number.
template <class C>
struct Frame {
  C centre = 0;
  int exponent = 0;
};

/// Whether a frame was good enough for n numbers, n > 0, that had these sums in it: differences of
/// large sums cost accuracy once the centre is off the mean, here by more than half a sigma, and
/// powers overflow or vanish.
__device__ inline bool fits(const Powers& p, int n) {
  constexpr double kVanishing = 1e-28;  // f32 knows numbers from 1e-38 on
  const double d = p.s1 / n, d2 = d * d;
  return isfinite(p.s4) && p.s4 >= n * kVanishing && 4 * d2 <= p.s2 / n - d2;
}

/// A better frame for numbers from `low` to `high`, finite and different.
template <class C>
__device__ Frame<C> reframed(const Frame<C>& frame, const Powers& p, int n, C low, C high) {
  const C mean =
      static_cast<C>(static_cast<double>(frame.centre) + ldexp(p.s1 / n, frame.exponent));
  const C centre = low <= mean && mean <= high ? mean : low / 2 + high / 2;
  return {centre, exponent_of(max(centre - low, high - centre))};
}

/// Moves the moments to the true mean and undoes the scaling.
__device__ inline void set_moments(Moments& m, const Powers& p, double centre, int exponent) {
  const double n = static_cast<double>(m.count), d = p.s1 / n, d2 = d * d;
  m.mean = centre + ldexp(d, exponent);
  m.m2 = ldexp(p.s2 - n * d2, 2 * exponent);
  m.m3 = ldexp(p.s3 - 3 * d * p.s2 + 2 * n * d2 * d, 3 * exponent);
  m.m4 = ldexp(p.s4 - 4 * d * p.s3 + 6 * d2 * p.s2 - 3 * n * d2 * d2, 4 * exponent);
}

}  // namespace quietformer::cuda
