#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "analysis/cuda/operations.h"
#include "core/cuda/map.cuh"
#include "core/cuda/reduce.cuh"
#include "core/math.h"

namespace quietformer::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;
constexpr int kValues = static_cast<int>(kPartValues) / kThreads;  // of a thread

/// The type a stored number is computed in.
template <class S>
struct Computed {
  using Type = float;
};
template <>
struct Computed<double> {
  using Type = double;
};

template <class S>
__device__ typename Computed<S>::Type compute(S value) {
  return static_cast<typename Computed<S>::Type>(value);
}

/// x < low exactly if x is below the double that low came from, and x > high likewise.
template <class C>
struct Limits {
  C magnitude, low, high;
};
__device__ Limits<float> limits_for(const OutlierLimits& limits, float) {
  return {__double2float_rd(limits.magnitude), __double2float_ru(limits.low),
          __double2float_rd(limits.high)};
}
__device__ Limits<double> limits_for(const OutlierLimits& limits, double) {
  return {limits.magnitude, limits.low, limits.high};
}

/// kPack neighbouring elements, one load.
template <class S, int kPack>
struct alignas(sizeof(S) * kPack) Load {
  S value[kPack];
};

/// A thread's numbers as they lie in memory. kept: bit j says whether load[j] counts.
template <class S, int kPack>
struct Values {
  static constexpr int kLoads = kValues / kPack;
  Load<S, kPack> load[kLoads];
  std::uint32_t kept = 0;

  /// f(x) for every number that counts.
  template <class F>
  __device__ void each(const F& f) const {
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      if ((kept >> j & 1) == 0) continue;
#pragma unroll
      for (int i = 0; i < kPack; ++i) f(compute(load[j].value[i]));
    }
  }
  __device__ int count() const {
    return __popc(kept) * kPack;
  }
};

/// One unit of one sample, cut into loads of kPack. kRows: its rows lie apart or are masked.
template <class S, int kPack, bool kRows>
struct Unit {
  const S* data;
  const std::uint8_t* keep;  // by row, or null
  std::int64_t loads, stride;
  std::uint32_t loads_of_row;

  __device__ void read(Values<S, kPack>& values, std::int64_t part) const {
    const std::int64_t first = part * (kPartValues / kPack) + threadIdx.x;
#pragma unroll
    for (int j = 0; j < Values<S, kPack>::kLoads; ++j) {
      const std::int64_t at = first + j * kThreads;
      if (at >= loads) continue;
      const S* from = data + at * kPack;
      if constexpr (kRows) {
        const std::int64_t row = at / loads_of_row;
        if (keep != nullptr && keep[row] == 0) continue;
        from = data + row * stride + (at - row * loads_of_row) * kPack;
      }
      values.load[j] = *reinterpret_cast<const Load<S, kPack>*>(from);
      values.kept |= 1u << j;
    }
  }
};

template <class C>
struct Extent {
  double sum;
  C low, high;
  int count;
};

/// Over the block; every thread gets the result. A NaN shows in the sum alone.
template <class C>
__device__ Extent<C> block_extent(Extent<C> x) {
  __shared__ double sum[kWarps];
  __shared__ C low[kWarps], high[kWarps];
  __shared__ int count[kWarps];
  const int warp = threadIdx.x / kWarp;
  x.sum = warp_reduce(x.sum, Plus());
  x.low = warp_reduce(x.low, [](C a, C b) { return b < a ? b : a; });
  x.high = warp_reduce(x.high, [](C a, C b) { return b > a ? b : a; });
  x.count = warp_reduce(x.count, Plus());
  if (threadIdx.x % kWarp == 0)
    sum[warp] = x.sum, low[warp] = x.low, high[warp] = x.high, count[warp] = x.count;
  __syncthreads();
  x = {sum[0], low[0], high[0], count[0]};
#pragma unroll
  for (int w = 1; w < kWarps; ++w) {
    x.sum += sum[w];
    x.low = low[w] < x.low ? low[w] : x.low;
    x.high = high[w] > x.high ? high[w] : x.high;
    x.count += count[w];
  }
  return x;
}

/// Sums of powers of 2^-exponent (x - centre), whose largest magnitude is about 1: nothing
/// overflows, and what underflows counts for nothing.
struct Powers {
  double s1, s2, s3, s4;
};

/// Over the block; the first thread gets the result.
__device__ Powers block_powers(Powers p) {
  __shared__ Powers part[kWarps];
  p.s1 = warp_reduce(p.s1, Plus());
  p.s2 = warp_reduce(p.s2, Plus());
  p.s3 = warp_reduce(p.s3, Plus());
  p.s4 = warp_reduce(p.s4, Plus());
  if (threadIdx.x % kWarp == 0) part[threadIdx.x / kWarp] = p;
  __syncthreads();
  if (threadIdx.x != 0) return p;
  p = part[0];
  for (int w = 1; w < kWarps; ++w) {
    p.s1 += part[w].s1, p.s2 += part[w].s2;
    p.s3 += part[w].s3, p.s4 += part[w].s4;
  }
  return p;
}

/// Moves the moments to the true mean, which is off the centre by what rounding it to C took, and
/// undoes the scaling.
__device__ void set_moments(Moments& m, const Powers& p, double centre, int exponent) {
  const double n = static_cast<double>(m.count), d = p.s1 / n, d2 = d * d;
  m.mean = centre + ldexp(d, exponent);
  m.m2 = ldexp(p.s2 - n * d2, 2 * exponent);
  m.m3 = ldexp(p.s3 - 3 * d * p.s2 + 2 * n * d2 * d, 3 * exponent);
  m.m4 = ldexp(p.s4 - 4 * d * p.s3 + 6 * d2 * p.s2 - 3 * n * d2 * d2, 4 * exponent);
}

template <class S, int kPack>
__device__ Powers powers_of(const Values<S, kPack>& values, typename Computed<S>::Type centre,
                            int exponent) {
  using C = typename Computed<S>::Type;
  const C scale = ldexp(C(1), -exponent), shift = -centre * scale;
  C s1 = 0, s2 = 0, s3 = 0, s4 = 0;
  values.each([&](C x) {
    const C d = fma(x, scale, shift), d2 = d * d;
    s1 += d;
    s2 += d2;
    s3 = fma(d2, d, s3);
    s4 = fma(d2, d2, s4);
  });
  return {double(s1), double(s2), double(s3), double(s4)};
}

/// All threads call; the first one gets the moments.
template <class S, int kPack>
__device__ Moments moments_of(const Values<S, kPack>& values, const OutlierLimits& given) {
  using C = typename Computed<S>::Type;
  C sum = 0, low = math::kInfinity<C>, high = -math::kInfinity<C>;
  values.each([&](C x) {
    sum += x;
    low = x < low ? x : low;
    high = x > high ? x : high;
  });
  const Extent<C> all = block_extent<C>({double(sum), low, high, values.count()});
  Moments m;
  m.count = all.count;
  if (all.count == 0) return m;
  m.max_abs = fmax(fabs(double(all.low)), fabs(double(all.high)));
  // Both conditions are those of the whole block, and mostly false.
  if (!isfinite(all.sum)) {
    int is_nan = 0;
    values.each([&](C x) { is_nan |= x != x; });
    if (__syncthreads_or(is_nan) != 0) m.max_abs = math::kNaN<double>;
  }
  const Limits<C> limits = limits_for(given, C());
  const C largest = all.high > -all.low ? all.high : -all.low;
  if (largest > limits.magnitude || all.low < limits.low || all.high > limits.high) {
    int beyond = 0, outside = 0;
    values.each([&](C x) {
      beyond += fabs(x) > limits.magnitude;
      outside += (x < limits.low) + (x > limits.high);
    });
    // At most kPartValues of each: both fit one word.
    const int both = block_reduce<kThreads>(outside << 16 | beyond, Plus());
    m.beyond_magnitude = both & 0xffff;
    m.outside = both >> 16;
  }
  if (all.low == all.high && isfinite(all.sum)) {
    m.mean = all.low;  // a constant: exactly no variance
    return m;
  }
  const C centre = static_cast<C>(all.sum / all.count);
  const C radius = fmax(fabs(all.low - centre), fabs(all.high - centre));
  const int exponent = isfinite(radius) && radius > 0 ? max(-120, min(120, ilogb(radius))) : 0;
  const Powers powers = block_powers(powers_of(values, centre, exponent));
  if (threadIdx.x == 0) set_moments(m, powers, double(centre), exponent);
  return m;
}

struct Layout {
  std::int64_t units, parts, stride, sample_stride, unit_stride, loads, rows;
  std::uint32_t loads_of_row;
};

/// A block per part.
template <class S, int kPack, bool kRows>
__global__ void __launch_bounds__(kThreads)
    moments_kernel(Moments* parts, const S* __restrict__ data,
                   const std::uint8_t* __restrict__ keep, Layout layout, OutlierLimits limits) {
  const std::int64_t unit = blockIdx.x / layout.parts, sample = unit / layout.units;
  const std::int64_t part = blockIdx.x - unit * layout.parts;
  Unit<S, kPack, kRows> from{};
  from.data =
      data + sample * layout.sample_stride + (unit - sample * layout.units) * layout.unit_stride;
  from.keep = keep != nullptr ? keep + sample * layout.rows : nullptr;
  from.loads = layout.loads;
  from.stride = layout.stride;
  from.loads_of_row = layout.loads_of_row;
  Values<S, kPack> values;
  from.read(values, part);
  const Moments m = moments_of(values, limits);
  if (threadIdx.x == 0) parts[blockIdx.x] = m;
}

template <class S, int kPack, bool kRows>
void start(const Context& ctx, Moments* parts, const Tensor& value, const SiteCut& cut,
           const Tensor& validity, const OutlierLimits& limits) {
  Layout layout{};
  layout.units = cut.units;
  layout.parts = parts_of_unit(cut);
  layout.stride = cut.stride;
  layout.sample_stride = cut.sample_stride;
  layout.unit_stride = cut.unit_stride;
  layout.loads = cut.rows * cut.width / kPack;
  layout.rows = cut.rows;
  layout.loads_of_row = static_cast<std::uint32_t>(cut.width / kPack);
  const std::int64_t blocks = cut.samples * cut.units * layout.parts;
  QF_EXPECTS(blocks <= INT32_MAX);
  launch(ctx, "site_moments", {dim3(static_cast<unsigned>(blocks)), dim3(kThreads)},
         moments_kernel<S, kPack, kRows>, parts, static_cast<const S*>(value.data),
         cut.masked ? validity.as<std::uint8_t>() : nullptr, layout, limits);
}

template <class S>
void start_as(const Context& ctx, Moments* parts, const Tensor& value, const SiteCut& cut,
              const Tensor& validity, const OutlierLimits& limits) {
  constexpr std::int64_t kPack = 16 / sizeof(S);
  const auto even = [](std::int64_t elements) { return elements % kPack == 0; };
  const bool aligned = reinterpret_cast<std::uintptr_t>(value.data) % 16 == 0 &&
                       even(cut.sample_stride) && even(cut.unit_stride);
  const bool together = !cut.masked && cut.stride == cut.width;
  if (aligned && together && even(cut.rows * cut.width))
    return start<S, kPack, false>(ctx, parts, value, cut, validity, limits);
  if (aligned && even(cut.stride) && even(cut.width))
    return start<S, kPack, true>(ctx, parts, value, cut, validity, limits);
  start<S, 1, true>(ctx, parts, value, cut, validity, limits);
}

}  // namespace

std::int64_t parts_of_unit(const SiteCut& cut) {
  return (cut.rows * cut.width + kPartValues - 1) / kPartValues;
}

void site_moments(const Context& ctx, Moments* parts, const Tensor& value, const SiteCut& cut,
                  const Tensor& validity, const OutlierLimits& limits) {
  expect_on_device(ctx, value);
  QF_EXPECTS(!cut.masked || validity.device == ctx.device);
  const CurrentDevice current(ctx.device);
  switch (value.dtype) {
    case DType::f64:
      return start_as<double>(ctx, parts, value, cut, validity, limits);
    case DType::f32:
      return start_as<float>(ctx, parts, value, cut, validity, limits);
    case DType::bf16:
      return start_as<__nv_bfloat16>(ctx, parts, value, cut, validity, limits);
    case DType::f16:
      return start_as<__half>(ctx, parts, value, cut, validity, limits);
    default:
      QF_EXPECTS(!"a floating type");
  }
}

}  // namespace quietformer::cuda
