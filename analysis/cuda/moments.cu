#include "analysis/cuda/operations.h"
#include "analysis/cuda/part.cuh"
#include "core/cuda/reduce.cuh"
#include "core/math.h"

namespace quietformer::cuda {
namespace {

constexpr int kWarps = kThreads / kWarp;

/// x < low exactly if x is below the double that low came from, and x > high likewise.
template <class C>
struct Limits {
  C magnitude, low, high;

  /// Whether numbers from `least` to `most` can be outliers.
  __device__ bool maybe_beyond(C least, C most) const {
    return most > smaller(magnitude, high) || least < larger(-magnitude, low);
  }
};
__device__ Limits<float> limits_for(const OutlierLimits& limits, float) {
  return {__double2float_rd(limits.magnitude), __double2float_ru(limits.low),
          __double2float_rd(limits.high)};
}
__device__ Limits<double> limits_for(const OutlierLimits& limits, double) {
  return {limits.magnitude, limits.low, limits.high};
}

/// The power of two that brings `radius` near 1, without the extremes of the type.
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

/// Extremes and counts of a thread's numbers.
template <class C>
struct Tally {
  C low = math::kInfinity<C>, high = -math::kInfinity<C>;
  int count = 0;
  unsigned outliers = 0;  // beyond the magnitude, and from bit 16 on outside

  template <class S, int kPack>
  __device__ void look(const Load<S, kPack> (&load)[kBatch], unsigned kept,
                       const Limits<C>& limits) {
    C least[kBatch], most[kBatch];
    bool any = false;
    if (kept == kWholeBatch) {
#pragma unroll
      for (int j = 0; j < kBatch; ++j) extremes(load[j], least[j], most[j]);
    } else {
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        least[j] = math::kInfinity<C>, most[j] = -math::kInfinity<C>;
        if ((kept >> j & 1) != 0) extremes(load[j], least[j], most[j]);
      }
    }
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      low = smaller(low, least[j]), high = larger(high, most[j]);
      any |= limits.maybe_beyond(least[j], most[j]);
    }
    count += __popc(kept) * kPack;
    if (!any) return;
#pragma unroll
    for (int j = 0; j < kBatch; ++j)
      if (limits.maybe_beyond(least[j], most[j])) count_outliers(load[j], limits);
  }
  template <class S, int kPack>
  __device__ void count_outliers(const Load<S, kPack>& load, const Limits<C>& limits) {
    C x[kPack];
    widen_all(x, load);
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      outliers += x[i] < limits.low || x[i] > limits.high ? 1u << 16 : 0u;
      outliers += fabs(x[i]) > limits.magnitude ? 1 : 0;
    }
  }
};

template <class C>
__device__ void add(Tally<C>& to, const Tally<C>& other) {
  to.low = smaller(to.low, other.low);
  to.high = larger(to.high, other.high);
  to.count += other.count;
  to.outliers += other.outliers;  // at most 32768 of each in a part
}

template <class C>
__device__ Tally<C> warp_tally(Tally<C> x) {
  x.low = warp_reduce(x.low, [](C a, C b) { return smaller(a, b); });
  x.high = warp_reduce(x.high, [](C a, C b) { return larger(a, b); });
  x.count = warp_reduce(x.count, Plus());
  x.outliers = warp_reduce(x.outliers, Plus());
  return x;
}

/// Sums of powers of 2^-exponent (x - centre).
struct Powers {
  double s1 = 0, s2 = 0, s3 = 0, s4 = 0;
};

/// All four sums over a warp by six exchanges: halves and quarters of the warp first share out
/// which sum they go on with. Lanes from 8 k on get sum k.
__device__ double warp_powers(const Powers& p) {
  constexpr unsigned kAll = 0xffffffffu;
  const bool upper = (threadIdx.x & 16) != 0, odd = (threadIdx.x & 8) != 0;
  const double a = (upper ? p.s3 : p.s1) + __shfl_xor_sync(kAll, upper ? p.s1 : p.s3, 16);
  const double b = (upper ? p.s4 : p.s2) + __shfl_xor_sync(kAll, upper ? p.s2 : p.s4, 16);
  double sum = (odd ? b : a) + __shfl_xor_sync(kAll, odd ? a : b, 8);
#pragma unroll
  for (int distance = 4; distance > 0; distance /= 2) sum += __shfl_xor_sync(kAll, sum, distance);
  return sum;
}

/// Where the powers are taken from: near the mean, and with numbers around 1 off it.
template <class C>
struct Frame {
  C centre;
  int exponent;
};

template <class C>
struct alignas(16) Start {
  C sum, low, high;
  int count;
};

/// From the first load of every thread; every thread gets it. A centre that is off costs accuracy
/// once it is off by several sigma, which reframe() is for.
template <class S, int kPack>
__device__ Frame<Compute<S>> first_frame(const Load<S, kPack>& load, bool kept) {
  using C = Compute<S>;
  __shared__ Start<C> part[kWarps];
  Start<C> x{0, math::kInfinity<C>, -math::kInfinity<C>, 0};
  if (kept) {
    extremes(load, x.low, x.high);
    C values[kPack];
    widen_all(values, load);
#pragma unroll
    for (int i = 0; i < kPack; ++i) x.sum += values[i];
  }
  x.sum = warp_reduce(x.sum, Plus());
  x.low = warp_reduce(x.low, [](C a, C b) { return smaller(a, b); });
  x.high = warp_reduce(x.high, [](C a, C b) { return larger(a, b); });
  x.count = __popc(__ballot_sync(0xffffffffu, kept)) * kPack;
  if (threadIdx.x % kWarp == 0) part[threadIdx.x / kWarp] = x;
  __syncthreads();
  x = part[0];
#pragma unroll
  for (int w = 1; w < kWarps; ++w) {
    const Start<C> other = part[w];
    x.sum += other.sum, x.count += other.count;
    x.low = smaller(x.low, other.low), x.high = larger(x.high, other.high);
  }
  if (x.count == 0) return {C(0), 0};
  const C centre = x.sum / static_cast<C>(x.count);
  return {centre, exponent_of(larger(centre - x.low, x.high - centre))};
}

/// A better frame once a whole part is known, or none (false). The first one is bad when it is
/// several sigma off the mean or when numbers are so far out that powers overflow.
template <class C>
__device__ bool reframe(Frame<C>& frame, const Powers& p, const Tally<C>& tally) {
  const double n = tally.count, d = p.s1 / n;
  const bool near = d * d <= 16 * (p.s2 / n - d * d);
  if (near && isfinite(p.s4)) return false;
  if (!isfinite(tally.low) || !isfinite(tally.high)) return false;
  const C mean = static_cast<C>(static_cast<double>(frame.centre) + ldexp(d, frame.exponent));
  const C centre = isfinite(mean) ? mean : tally.low / 2 + tally.high / 2;
  frame = {centre, exponent_of(larger(centre - tally.low, tally.high - centre))};
  return true;
}

/// Moves the moments to the true mean and undoes the scaling.
__device__ void set_moments(Moments& m, const Powers& p, double centre, int exponent) {
  const double n = static_cast<double>(m.count), d = p.s1 / n, d2 = d * d;
  m.mean = centre + ldexp(d, exponent);
  m.m2 = ldexp(p.s2 - n * d2, 2 * exponent);
  m.m3 = ldexp(p.s3 - 3 * d * p.s2 + 2 * n * d2 * d, 3 * exponent);
  m.m4 = ldexp(p.s4 - 4 * d * p.s3 + 6 * d2 * p.s2 - 3 * n * d2 * d2, 4 * exponent);
}

/// What the warps of a block bring together, and what the first thread makes of it.
template <class C>
struct alignas(16) Meeting {
  double powers[4][kWarps];
  char tallies[kWarps * sizeof(Tally<C>)];
  Frame<C> frame;
  bool again, finite;

  __device__ Tally<C>& tally(int warp) { return reinterpret_cast<Tally<C>*>(tallies)[warp]; }

  /// All threads call, after which the first one knows the sums and everybody `again`, `finite` and
  /// the frame to go on with.
  __device__ void meet(Powers& powers_, Tally<C>& tally_, const Frame<C>& current, bool last) {
    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    const double sum = warp_powers(powers_);
    const Tally<C> mine = warp_tally(tally_);
    if (lane % 8 == 0) powers[lane / 8][warp] = sum;
    if (lane == 0) tally(warp) = mine;
    __syncthreads();
    if (threadIdx.x == 0) {
      powers_ = Powers();
      tally_ = Tally<C>();
      for (int w = 0; w < kWarps; ++w) {
        powers_.s1 += powers[0][w], powers_.s2 += powers[1][w];
        powers_.s3 += powers[2][w], powers_.s4 += powers[3][w];
        add(tally_, tally(w));
      }
      frame = current;
      again = tally_.count > 0 && !last && reframe(frame, powers_, tally_);
      finite = tally_.count == 0 || isfinite(powers_.s1);
    }
    __syncthreads();
  }
};

template <class S, int kPack>
__device__ void add_powers(Powers& powers, const Load<S, kPack> (&load)[kBatch], unsigned kept,
                           const Frame<Compute<S>>& frame) {
  using C = Compute<S>;
  const C scale = power_of_two(-frame.exponent, C()), shift = -frame.centre * scale;
  C s1 = 0, s2 = 0, s3 = 0, s4 = 0;
  const auto add = [&](const Load<S, kPack>& some) {
    C x[kPack];
    widen_all(x, some);
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      const C d = fma(x[i], scale, shift), d2 = d * d;
      s1 += d;
      s2 += d2;
      s3 = fma(d2, d, s3);
      s4 = fma(d2, d2, s4);
    }
  };
  if (kept == kWholeBatch) {  // without branches between the loads
#pragma unroll
    for (int j = 0; j < kBatch; ++j) add(load[j]);
  } else {
#pragma unroll
    for (int j = 0; j < kBatch; ++j)
      if ((kept >> j & 1) != 0) add(load[j]);
  }
  powers.s1 += s1, powers.s2 += s2;
  powers.s3 += s3, powers.s4 += s4;
}

/// Whether any number of the part is NaN; every thread gets the answer.
template <class S, int kPack, bool kRows>
__device__ bool any_nan(const Part<S, kPack, kRows>& part) {
  Load<S, kPack> load[kBatch];
  int found = 0;
  for (std::uint32_t at = part.begin + threadIdx.x; at < part.end; at += kBatch * kThreads) {
    const unsigned kept = part.read(load, at);
    for (int j = 0; j < kBatch; ++j) {
      if ((kept >> j & 1) == 0) continue;
      Compute<S> x[kPack];
      widen_all(x, load[j]);
      for (int i = 0; i < kPack; ++i) found |= x[i] != x[i];
    }
  }
  return __syncthreads_or(found) != 0;
}

/// All threads call; the first one gets the moments. Memory is read once, but for the parts that
/// need another frame and those with a NaN.
template <class S, int kPack, bool kRows>
__device__ Moments moments_of(const Part<S, kPack, kRows>& part, const OutlierLimits& given) {
  using C = Compute<S>;
  __shared__ Meeting<C> meeting;
  const Limits<C> limits = limits_for(given, C());
  const std::uint32_t first = part.begin + threadIdx.x;
  // A batch is on its way while the one before is worked on.
  Load<S, kPack> load[kBatch], coming[kBatch];
  unsigned kept = part.read(load, first);
  unsigned coming_kept = part.read(coming, first + kBatch * kThreads);
  Frame<C> frame = first_frame(load[0], (kept & 1) != 0);
  Tally<C> tally;
  Powers powers;
  constexpr int kAll = kRounds * Pack<S>::kSize / kPack;
#pragma unroll 4
  for (int round = 0; round < kAll; ++round) {
    tally.look(load, kept, limits);
    add_powers(powers, load, kept, frame);
#pragma unroll
    for (int j = 0; j < kBatch; ++j) load[j] = coming[j];
    kept = coming_kept;
    if (round + 2 < kAll) coming_kept = part.read(coming, first + (round + 2) * kBatch * kThreads);
  }
  Tally<C> all = tally;
  meeting.meet(powers, all, frame, false);
  for (int again = 1; meeting.again; ++again) {
    frame = meeting.frame;
    powers = Powers();
    for (std::uint32_t at = first; at < part.end; at += kBatch * kThreads) {
      kept = part.read(load, at);
      add_powers(powers, load, kept, frame);
    }
    all = tally;
    __syncthreads();  // `again` was read by all
    meeting.meet(powers, all, frame, again == 2);
  }
  const bool is_nan = !meeting.finite && any_nan(part);
  Moments m;
  m.count = all.count;
  if (threadIdx.x != 0 || all.count == 0) return m;
  m.max_abs = is_nan ? math::kNaN<double> : fabs(static_cast<double>(larger(-all.low, all.high)));
  m.beyond_magnitude = all.outliers & 0xffff;
  m.outside = all.outliers >> 16;
  if (meeting.finite && all.low == all.high)
    m.mean = all.low;  // a constant: exactly no variance
  else
    set_moments(m, powers, static_cast<double>(frame.centre), frame.exponent);
  return m;
}

struct Layout {
  std::int64_t units, parts, stride, sample_stride, unit_stride, rows;
  std::uint32_t loads, loads_of_row;
};

/// A block per part, the last one first: what was written last may still be in the cache, and who
/// reads the activation next finds its beginning there.
template <class S, int kPack, bool kRows>
__global__ void __launch_bounds__(kThreads, sizeof(S) == 8 ? 2 : 4)
    moments_kernel(Moments* parts, const S* __restrict__ data,
                   const std::uint8_t* __restrict__ keep, Layout layout, OutlierLimits limits) {
  constexpr auto kLoads = static_cast<std::uint32_t>(kPartValues<S> / kPack);
  const unsigned block = gridDim.x - 1 - blockIdx.x;
  const std::int64_t unit = block / layout.parts, sample = unit / layout.units;
  Part<S, kPack, kRows> part{};
  part.data =
      data + sample * layout.sample_stride + (unit - sample * layout.units) * layout.unit_stride;
  part.keep = keep != nullptr ? keep + sample * layout.rows : nullptr;
  part.stride = layout.stride;
  part.begin = static_cast<std::uint32_t>(block - unit * layout.parts) * kLoads;
  part.end = min(part.begin + kLoads, layout.loads);
  part.loads_of_row = layout.loads_of_row;
  const Moments m = moments_of(part, limits);
  if (threadIdx.x == 0) parts[block] = m;
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
  const std::int64_t loads = cut.rows * cut.width / kPack;
  QF_EXPECTS(loads <= INT32_MAX - kPartValues<S>);
  layout.loads = static_cast<std::uint32_t>(loads);
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
  const auto parts = [&]<class S>() {
    return (cut.rows * cut.width + kPartValues<S> - 1) / kPartValues<S>;
  };
  return dispatch_storage(dtype, parts);
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
