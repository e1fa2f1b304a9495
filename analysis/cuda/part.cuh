// How a block of moments.cu reads its part of an activation. For that file.
#pragma once

#include "core/cuda/storage.cuh"

namespace quietformer::cuda {

inline constexpr int kMany = 256, kFew = 32;  // threads of a block
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

/// As few parts as keep a GPU busy at once, since what a block does at its beginning and its end
/// costs as much as four steps. Short units are for blocks of one warp.
template <class S>
Parts parts_for(std::int64_t units, std::int64_t values_of_unit) {
  constexpr std::int64_t kBlocks = 512, kFewestSteps = 4, kStep = kStepValues<S, kMany>;
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
template <class Pair, class S, int kLoads>
__device__ void extremes_of_pairs(const Load<S, 8>* load, float& low, float& high) {
  Pair least = as_pair<Pair>(load->pair[0]), most = least;
#pragma unroll
  for (int i = 1; i < 4 * kLoads; ++i) {
    const Pair next = as_pair<Pair>(load[i / 4].pair[i % 4]);
    least = __hmin2(least, next), most = __hmax2(most, next);
  }
  low = smaller(widen(least.x), widen(least.y));
  high = larger(widen(most.x), widen(most.y));
}
__device__ inline void extremes(const Load<__nv_bfloat16, 8>& load, float& low, float& high) {
  extremes_of_pairs<__nv_bfloat162, __nv_bfloat16, 1>(&load, low, high);
}
__device__ inline void extremes(const Load<__half, 8>& load, float& low, float& high) {
  extremes_of_pairs<__half2, __half, 1>(&load, low, high);
}
/// Of a whole batch.
template <class S, int kPack>
__device__ void extremes(const Load<S, kPack> (&load)[kBatch], Compute<S>& low, Compute<S>& high) {
  if constexpr (kSixteenBit<S> && kPack == 8) {
    using Pair = std::conditional_t<std::is_same_v<S, __half>, __half2, __nv_bfloat162>;
    extremes_of_pairs<Pair, S, kBatch>(load, low, high);
  } else {
    extremes(load[0], low, high);
#pragma unroll
    for (int j = 1; j < kBatch; ++j) {
      Compute<S> least, most;
      extremes(load[j], least, most);
      low = smaller(low, least), high = larger(high, most);
    }
  }
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
