#include "analysis/cuda/operations.h"
#include "core/cuda/reduce.cuh"
#include "core/cuda/storage.cuh"
#include "core/math.h"

namespace quietformer::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;

/// Numbers of a thread, enough for what every thread does besides them to weigh little; and of a
/// block.
template <class S>
constexpr int kValues = kSixteenBit<S> ? 64 : 32;
template <class S>
constexpr std::int64_t kPartValues = std::int64_t{kValues<S>} * kThreads;

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

// One instruction each; NaN gives way to numbers.
__device__ float smaller(float a, float b) {
  return fminf(a, b);
}
__device__ double smaller(double a, double b) {
  return fmin(a, b);
}
__device__ float larger(float a, float b) {
  return fmaxf(a, b);
}
__device__ double larger(double a, double b) {
  return fmax(a, b);
}

/// Powers of two that bring `radius` near 1, without the extremes of the type.
__device__ int exponent_of(float radius) {
  return max(-120, min(120, (__float_as_int(radius) >> 23 & 0xff) - 127));
}
__device__ int exponent_of(double radius) {
  return isfinite(radius) && radius > 0 ? max(-900, min(900, ilogb(radius))) : 0;
}
__device__ float power_of_two(int exponent, float) {
  return __int_as_float((127 + exponent) << 23);
}
__device__ double power_of_two(int exponent, double) {
  return ldexp(1.0, exponent);
}

/// kPack neighbouring elements, one load.
template <class S, int kPack>
struct alignas(sizeof(S) * kPack) Load {
  S value[kPack];
};

/// A thread's numbers as they lie in memory. kept: bit j says whether load[j] counts.
template <class S, int kPack>
struct Values {
  static constexpr int kLoads = kValues<S> / kPack;
  Load<S, kPack> load[kLoads];
  std::conditional_t<(kLoads > 32), std::uint64_t, std::uint32_t> kept = 0;

  /// f(x) for every number that counts.
  template <class F>
  __device__ void each(const F& f) const {
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      if ((kept >> j & 1) == 0) continue;
#pragma unroll
      for (int i = 0; i < kPack; ++i) f(widen(load[j].value[i]));
    }
  }
  __device__ int count() const {
    return __popcll(kept) * kPack;
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
    const std::int64_t first = part * (kPartValues<S> / kPack) + threadIdx.x;
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
      values.kept |= decltype(values.kept){1} << j;
    }
  }
};

/// `sum` only has to lead near the mean: what it is off by, the powers correct.
template <class C>
struct alignas(16) Extent {
  C sum, low, high;
  int count;
};

/// Over the block; every thread gets the result. A NaN shows in the sum alone.
template <class C>
__device__ Extent<C> block_extent(Extent<C> x) {
  __shared__ Extent<C> part[kWarps];
  x.sum = warp_reduce(x.sum, Plus());
  x.low = warp_reduce(x.low, [](C a, C b) { return smaller(a, b); });
  x.high = warp_reduce(x.high, [](C a, C b) { return larger(a, b); });
  x.count = warp_reduce(x.count, Plus());
  if (threadIdx.x % kWarp == 0) part[threadIdx.x / kWarp] = x;
  __syncthreads();
  x = part[0];
#pragma unroll
  for (int w = 1; w < kWarps; ++w) {
    const Extent<C> other = part[w];
    x.sum += other.sum;
    x.low = smaller(x.low, other.low);
    x.high = larger(x.high, other.high);
    x.count += other.count;
  }
  return x;
}

/// Sums of powers of 2^-exponent (x - centre), whose largest magnitude is about 1: nothing
/// overflows, and what underflows counts for nothing.
struct Powers {
  double s1, s2, s3, s4;
};

/// All four sums over a warp by six exchanges: halves and quarters of the warp first share out
/// which sum they go on with. Lane 8 k gets sum k.
__device__ double warp_powers(const Powers& p) {
  constexpr unsigned kAll = 0xffffffffu;
  const bool upper = (threadIdx.x & 16) != 0, odd = (threadIdx.x & 8) != 0;
  const double a = (upper ? p.s3 : p.s1) + __shfl_xor_sync(kAll, upper ? p.s1 : p.s3, 16);
  const double b = (upper ? p.s4 : p.s2) + __shfl_xor_sync(kAll, upper ? p.s2 : p.s4, 16);
  double sum = (odd ? b : a) + __shfl_xor_sync(kAll, odd ? a : b, 8);
  for (int distance = 4; distance > 0; distance /= 2) sum += __shfl_xor_sync(kAll, sum, distance);
  return sum;
}

/// Over the block; the first thread gets the result.
__device__ Powers block_powers(const Powers& p) {
  __shared__ double part[kWarps][4];
  const double sum = warp_powers(p);
  if (threadIdx.x % 8 == 0) part[threadIdx.x / kWarp][threadIdx.x % kWarp / 8] = sum;
  __syncthreads();
  double total[4] = {};
  if (threadIdx.x == 0)
    for (int w = 0; w < kWarps; ++w)
      for (int k = 0; k < 4; ++k) total[k] += part[w][k];
  return {total[0], total[1], total[2], total[3]};
}

/// Moves the moments to the true mean, which is a little off the centre, and undoes the scaling.
__device__ void set_moments(Moments& m, const Powers& p, double centre, int exponent) {
  const double n = static_cast<double>(m.count), d = p.s1 / n, d2 = d * d;
  m.mean = centre + ldexp(d, exponent);
  m.m2 = ldexp(p.s2 - n * d2, 2 * exponent);
  m.m3 = ldexp(p.s3 - 3 * d * p.s2 + 2 * n * d2 * d, 3 * exponent);
  m.m4 = ldexp(p.s4 - 4 * d * p.s3 + 6 * d2 * p.s2 - 3 * n * d2 * d2, 4 * exponent);
}

template <class S, int kPack>
__device__ Powers powers_of(const Values<S, kPack>& values, Compute<S> centre, int exponent) {
  using C = Compute<S>;
  const C scale = power_of_two(-exponent, C()), shift = -centre * scale;
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

/// All threads call, with the extent of the whole block; the first one gets the counts.
template <class S, int kPack>
__device__ void count_outliers(Moments& m, const Values<S, kPack>& values,
                               const Extent<Compute<S>>& all, const OutlierLimits& given) {
  using C = Compute<S>;
  if (!isfinite(all.sum)) {
    int is_nan = 0;
    values.each([&](C x) { is_nan |= x != x; });
    if (__syncthreads_or(is_nan) != 0) m.max_abs = math::kNaN<double>;
  }
  const Limits<C> limits = limits_for(given, C());
  if (!(larger(all.high, -all.low) > limits.magnitude) && !(all.low < limits.low) &&
      !(all.high > limits.high))
    return;
  int beyond = 0, outside = 0;
  values.each([&](C x) {
    beyond += fabs(x) > limits.magnitude;
    outside += x < limits.low || x > limits.high;
  });
  // At most kPartValues of each: both fit one word.
  const int both = block_reduce<kThreads>(outside << 16 | beyond, Plus());
  m.beyond_magnitude = both & 0xffff;
  m.outside = both >> 16;
}

/// All threads call; the first one gets the moments.
template <class S, int kPack>
__device__ Moments moments_of(const Values<S, kPack>& values, const OutlierLimits& limits) {
  using C = Compute<S>;
  C sum = 0, low = math::kInfinity<C>, high = -math::kInfinity<C>;
  values.each([&](C x) {
    sum += x;
    low = smaller(low, x);
    high = larger(high, x);
  });
  const Extent<C> all = block_extent<C>({sum, low, high, values.count()});
  Moments m;
  m.count = all.count;
  if (all.count == 0) return m;
  m.max_abs = fabs(static_cast<double>(larger(-all.low, all.high)));
  count_outliers(m, values, all, limits);
  if (all.low == all.high && isfinite(all.sum)) {
    m.mean = all.low;  // a constant: exactly no variance
    return m;
  }
  const C centre = all.sum / static_cast<C>(all.count);
  const int exponent = exponent_of(larger(centre - all.low, all.high - centre));
  const Powers powers = block_powers(powers_of(values, centre, exponent));
  if (threadIdx.x == 0) set_moments(m, powers, static_cast<double>(centre), exponent);
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
  layout.parts = parts_of_unit(cut, value.dtype);
  layout.stride = cut.stride;
  layout.sample_stride = cut.sample_stride;
  layout.unit_stride = cut.unit_stride;
  layout.loads = cut.rows * cut.width / kPack;
  layout.rows = cut.rows;
  layout.loads_of_row = static_cast<std::uint32_t>(cut.width / kPack);
  const std::int64_t blocks = cut.samples * cut.units * layout.parts;
  QF_EXPECTS(blocks <= INT32_MAX);
  launch(ctx, "site_moments", {dim3(static_cast<unsigned>(blocks)), dim3(kThreads)},
         moments_kernel<S, kPack, kRows>, parts, value.as<S>(),
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

std::int64_t parts_of_unit(const SiteCut& cut, DType dtype) {
  const std::int64_t part = size_of(dtype) == 2 ? kPartValues<__half> : kPartValues<float>;
  return (cut.rows * cut.width + part - 1) / part;
}

void site_moments(const Context& ctx, Moments* parts, const Tensor& value, const SiteCut& cut,
                  const Tensor& validity, const OutlierLimits& limits) {
  expect_on_device(ctx, value);
  QF_EXPECTS(!cut.masked || validity.device == ctx.device);
  const CurrentDevice current(ctx.device);
  dispatch_storage(value.dtype,
                   [&]<class S>() { start_as<S>(ctx, parts, value, cut, validity, limits); });
}

}  // namespace quietformer::cuda
