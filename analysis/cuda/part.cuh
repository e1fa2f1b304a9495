// How a block of moments.cu reads its part of an activation. For that file.
#pragma once

#include "core/cuda/storage.cuh"

namespace quietformer::cuda {

inline constexpr int kMany = 128, kFew = 32;  // threads of a block
inline constexpr int kBatch = 4;              // loads of a thread at once
inline constexpr unsigned kWholeBatch = (1u << kBatch) - 1;
/// Numbers that a block takes at once, in whole packs.
template <class S, int kThreads>
inline constexpr std::int64_t kStepValues = std::int64_t{kBatch} * kThreads* Pack<S>::kSize;

/// How each unit falls into parts, which one block takes the moments of.
struct Parts {
  int threads;          // of a block
  std::int64_t values;  // of a part
};

/// Some blocks for every place on a GPU, so that while one is at its beginning or its end, which
/// cost as much as four steps, others read. Short units are for blocks of one warp.
template <class S>
Parts parts_for(std::int64_t units, std::int64_t values_of_unit) {
  constexpr std::int64_t kBlocks = 2048, kFewestSteps = 4, kStep = kStepValues<S, kMany>;
  if (values_of_unit <= kFewestSteps * kStepValues<S, kFew>)
    return {kFew, kFewestSteps * kStepValues<S, kFew>};
  const std::int64_t parts = std::max<std::int64_t>(1, kBlocks / units);
  const std::int64_t steps = (values_of_unit + parts * kStep - 1) / (parts * kStep);
  return {kMany, std::max(steps, kFewestSteps) * kStep};
}

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

template <class S>
using PairOf = std::conditional_t<std::is_same_v<S, __half>, __half2, __nv_bfloat162>;

/// The largest number of type S that is no larger.
template <class S>
__device__ Compute<S> round_down(double x) {
  if constexpr (std::is_same_v<S, double>)
    return x;
  else if constexpr (std::is_same_v<S, float>)
    return __double2float_rd(x);
  else if constexpr (std::is_same_v<S, __half>)
    return __half2float(__float2half_rd(__double2float_rd(x)));
  else
    return __bfloat162float(__float2bfloat16_rd(__double2float_rd(x)));
}

/// Counts numbers of 16 bits in pairs, as 1 or 0 in either half.
template <class Pair>
struct Outliers {
  Pair magnitude, low, high;

  /// Of the type.
  __device__ Outliers(float m, float l, float h)
      : magnitude(both(m)), low(both(l)), high(both(h)) {}
  __device__ static Pair both(float x) {
    if constexpr (std::is_same_v<Pair, __half2>)
      return __float2half2_rn(x);
    else
      return __float2bfloat162_rn(x);
  }
  template <class S>
  __device__ void count(const Load<S, 8>& load, Pair& beyond, Pair& outside) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const Pair x = as_pair<Pair>(load.pair[i]);
      beyond = __hadd2(beyond, __hgt2(__habs2(x), magnitude));
      outside = __hadd2(outside, __hadd2(__hlt2(x, low), __hgt2(x, high)));
    }
  }
};

/// The largest magnitude of some loads; NaN gives way. 16-bit types are compared in pairs.
template <int kLoads, class S, int kPack>
__device__ Compute<S> largest_magnitude(const Load<S, kPack>* load) {
  if constexpr (kSixteenBit<S> && kPack == 8) {
    using Pair = PairOf<S>;
    Pair most = __habs2(as_pair<Pair>(load->pair[0]));
#pragma unroll
    for (int i = 1; i < 4 * kLoads; ++i)
      most = __hmax2(most, __habs2(as_pair<Pair>(load[i / 4].pair[i % 4])));
    return larger(widen(most.x), widen(most.y));
  } else {
    Compute<S> most = 0;
#pragma unroll
    for (int j = 0; j < kLoads; ++j)
#pragma unroll
      for (int i = 0; i < kPack; ++i) most = larger(most, fabs(widen(load[j].value[i])));
    return most;
  }
}
template <class S, int kPack>
__device__ Compute<S> largest_of(const Load<S, kPack>& load) {
  return largest_magnitude<1>(&load);
}
/// Of a whole batch.
template <class S, int kPack>
__device__ Compute<S> largest_of(const Load<S, kPack> (&load)[kBatch]) {
  return largest_magnitude<kBatch>(load);
}

/// One unit of one sample in loads of kPack, and the part of it that this block looks at. kRows:
/// its rows lie apart or are masked.
template <class S, int kPack, bool kRows, int kThreads>
struct Part {
  const S* data;
  const std::uint8_t* keep;  // by row, or null
  std::int64_t stride;
  std::uint32_t begin, end;  // loads
  std::uint32_t loads_of_row;

  /// A thread's batch: bit j of the result says whether load[j] counts.
  __device__ unsigned read(Load<S, kPack> (&load)[kBatch], std::uint32_t first) const {
    if constexpr (!kRows) {
      if (first + (kBatch - 1) * kThreads < end) {
        const auto* from = reinterpret_cast<const Load<S, kPack>*>(data) + first;
#pragma unroll
        for (int j = 0; j < kBatch; ++j) load[j] = from[j * kThreads];
        return kWholeBatch;
      }
    }
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
