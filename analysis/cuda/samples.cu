#include <algorithm>

#include "analysis/cuda/operations.h"
#include "analysis/merge.h"
#include "core/cuda/reduce.cuh"

namespace quietformer::cuda {
namespace {

constexpr int kThreads = 512, kWarps = kThreads / kWarp;
constexpr std::size_t kMost = 64;  // sites of a launch: 64 x 48 bytes are within a kernel's 4 KiB

struct Sites {
  SiteParts site[kMost];
};

/// SampleSums::add and SampleSums::merge.
__device__ void add_sample(SampleSums& sums, const Moments& sample) {
  if (sample.count == 0) return;
  ++sums.samples;
  sums.kurtosis += kurtosis_of(sample);
  sums.skewness += skewness_of(sample);
  sums.variance += variance_of(sample);
  sums.mean += sample.mean;
  sums.infinity_norm += sample.max_abs;
  merge_moments(sums.pooled, sample);
}
__device__ void merge_sums(SampleSums& sums, const SampleSums& other) {
  sums.samples += other.samples;
  sums.kurtosis += other.kurtosis;
  sums.skewness += other.skewness;
  sums.variance += other.variance;
  sums.mean += other.mean;
  sums.infinity_norm += other.infinity_norm;
  merge_moments(sums.pooled, other.pooled);
}

/// The same struct of another lane, word by word.
template <class T>
__device__ T shuffle_down(const T& value, int distance) {
  static_assert(sizeof(T) % sizeof(int) == 0);
  T other;
#pragma unroll
  for (std::size_t i = 0; i < sizeof(T) / sizeof(int); ++i)
    reinterpret_cast<int*>(&other)[i] =
        __shfl_down_sync(0xffffffffu, reinterpret_cast<const int*>(&value)[i], distance);
  return other;
}

/// Moments of `count` parts; the first lane gets them.
__device__ Moments merged(const Moments* parts, std::int64_t count) {
  Moments m;
  for (std::int64_t i = threadIdx.x % kWarp; i < count; i += kWarp) merge_moments(m, parts[i]);
#pragma unroll 1
  for (int distance = kWarp / 2; distance > 0; distance /= 2)
    merge_moments(m, shuffle_down(m, distance));
  return m;
}

/// Block (i, s) adds the samples of site s to its sums i: of all units, or of unit i - 1.
__global__ void __launch_bounds__(kThreads) samples_kernel(const Sites sites) {
  const SiteParts& site = sites.site[blockIdx.y];
  const std::int64_t slot = blockIdx.x;
  if (slot > (site.heads ? site.units : 0)) return;
  const std::int64_t units = slot == 0 ? site.units : 1, unit = slot == 0 ? 0 : slot - 1;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  SampleSums sums;
  for (std::int64_t sample = warp; sample < site.samples; sample += kWarps) {
    const Moments* first = site.parts + (sample * site.units + unit) * site.parts_of_unit;
    add_sample(sums, merged(first, units * site.parts_of_unit));
  }
  // The first lanes' sums, by halves, as the first warp.
  __shared__ alignas(SampleSums) char memory[kWarps * sizeof(SampleSums)];
  auto* const of_warp = reinterpret_cast<SampleSums*>(memory);
  if (lane == 0) of_warp[warp] = sums;
  __syncthreads();
  if (warp != 0) return;
  sums = lane < kWarps ? of_warp[lane] : SampleSums();
#pragma unroll 1
  for (int distance = kWarps / 2; distance > 0; distance /= 2)
    merge_sums(sums, shuffle_down(sums, distance));
  if (lane != 0) return;
  SampleSums total = site.first ? SampleSums() : site.sums[slot];
  merge_sums(total, sums);
  site.sums[slot] = total;
}

}  // namespace

void add_samples(const Context& ctx, std::span<const SiteParts> sites) {
  const CurrentDevice current(ctx.device);
  for (std::size_t begin = 0; begin < sites.size(); begin += kMost) {
    Sites some;
    const std::size_t count = std::min(kMost, sites.size() - begin);
    std::int64_t slots = 1;
    for (std::size_t i = 0; i < count; ++i) {
      some.site[i] = sites[begin + i];
      if (some.site[i].heads) slots = std::max(slots, 1 + some.site[i].units);
    }
    launch(ctx, "add_samples",
           {dim3(static_cast<unsigned>(slots), static_cast<unsigned>(count)), dim3(kThreads)},
           samples_kernel, some);
  }
}

}  // namespace quietformer::cuda
