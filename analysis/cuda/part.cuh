// How a block of moments.cu reads its part of an activation. For that file.
#pragma once

#include "core/cuda/storage.cuh"

namespace quietformer::cuda {

inline constexpr int kThreads = 256;
inline constexpr int kBatch = 4;   // loads of a thread at once
inline constexpr int kRounds = 4;  // of them in a part
inline constexpr unsigned kWholeBatch = (1u << kBatch) - 1;

/// Numbers of a part, which one block takes the moments of.
template <class S>
inline constexpr std::int64_t kPartValues =
    std::int64_t{kRounds} * kBatch* kThreads* Pack<S>::kSize;

// NaN gives way to numbers.
__device__ inline float smaller(float a, float b) {
  return fminf(a, b);
}
__device__ inline double smaller(double a, double b) {
  return fmin(a, b);
}
__device__ inline float larger(float a, float b) {
  return fmaxf(a, b);
}
__device__ inline double larger(double a, double b) {
  return fmax(a, b);
}

/// kPack neighbouring elements, one load.
template <class S, int kPack>
struct alignas(sizeof(S) * kPack) Load {
  S value[kPack];
};
/// Of 16-bit types in pairs, as they come and as instructions take them.
template <class S>
struct alignas(16) Load<S, 8> {
  std::uint32_t pair[4];
};

/// A load's numbers in the type they are computed in.
template <class S, int kPack>
__device__ void widen_all(Compute<S> (&x)[kPack], const Load<S, kPack>& load) {
#pragma unroll
  for (int i = 0; i < kPack; ++i) x[i] = widen(load.value[i]);
}
__device__ inline void widen_all(float (&x)[8], const Load<__nv_bfloat16, 8>& load) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    x[2 * i] = __uint_as_float(load.pair[i] << 16);
    x[2 * i + 1] = __uint_as_float(load.pair[i] & 0xffff0000u);
  }
}
template <class Pair>
__device__ Pair as_pair(std::uint32_t word) {
  Pair pair;
  memcpy(&pair, &word, sizeof(pair));
  return pair;
}
__device__ inline void widen_all(float (&x)[8], const Load<__half, 8>& load) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 two = __half22float2(as_pair<__half2>(load.pair[i]));
    x[2 * i] = two.x, x[2 * i + 1] = two.y;
  }
}

// The least and the largest number of a load. 16-bit types are compared in pairs.
template <class S, int kPack>
__device__ void extremes(const Load<S, kPack>& load, Compute<S>& low, Compute<S>& high) {
  low = high = widen(load.value[0]);
#pragma unroll
  for (int i = 1; i < kPack; ++i) {
    low = smaller(low, widen(load.value[i]));
    high = larger(high, widen(load.value[i]));
  }
}
template <class Pair, class S>
__device__ void extremes_of_pairs(const Load<S, 8>& load, float& low, float& high) {
  const Pair a = as_pair<Pair>(load.pair[0]), b = as_pair<Pair>(load.pair[1]);
  const Pair c = as_pair<Pair>(load.pair[2]), d = as_pair<Pair>(load.pair[3]);
  const Pair least = __hmin2(__hmin2(a, b), __hmin2(c, d));
  const Pair most = __hmax2(__hmax2(a, b), __hmax2(c, d));
  low = smaller(widen(least.x), widen(least.y));
  high = larger(widen(most.x), widen(most.y));
}
__device__ inline void extremes(const Load<__nv_bfloat16, 8>& load, float& low, float& high) {
  extremes_of_pairs<__nv_bfloat162>(load, low, high);
}
__device__ inline void extremes(const Load<__half, 8>& load, float& low, float& high) {
  extremes_of_pairs<__half2>(load, low, high);
}

/// One unit of one sample in loads of kPack, and the part of it that this block looks at. kRows:
/// its rows lie apart or are masked.
template <class S, int kPack, bool kRows>
struct Part {
  const S* data;
  const std::uint8_t* keep;  // by row, or null
  std::int64_t stride;
  std::uint32_t begin, end;  // loads
  std::uint32_t loads_of_row;

  /// A thread's batch: bit j of the result says whether load[j] counts.
  __device__ unsigned read(Load<S, kPack> (&load)[kBatch], std::uint32_t first) const {
    unsigned kept = 0;
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const std::uint32_t at = first + j * kThreads;
      if (at >= end) continue;
      const S* from = data + std::int64_t{at} * kPack;
      if constexpr (kRows) {
        const std::uint32_t row = at / loads_of_row;
        if (keep != nullptr && keep[row] == 0) continue;
        from = data + row * stride + std::int64_t{at - row * loads_of_row} * kPack;
      }
      load[j] = *reinterpret_cast<const Load<S, kPack>*>(from);
      kept |= 1u << j;
    }
    return kept;
  }
};

}  // namespace quietformer::cuda
