#include "analysis/cuda/frame.cuh"
#include "analysis/cuda/operations.h"
#include "analysis/cuda/part.cuh"
#include "core/math.h"

namespace quietformer::cuda {
namespace {

/// Numbers of the type S that is stored: x < low exactly if x is below the double that low came
/// from, and x > high and |x| > magnitude likewise.
template <class C>
struct Limits {
  C magnitude, low, high;
  C none;  // numbers no larger are within all three
};
template <class S>
__device__ Limits<Compute<S>> limits_for(const OutlierLimits& limits) {
  const auto magnitude = round_down<S>(limits.magnitude), low = -round_down<S>(-limits.low),
             high = round_down<S>(limits.high);
  return {magnitude, low, high, smaller(magnitude, smaller(-low, high))};
}

/// Largest magnitude and counts of a thread's numbers.
template <class C>
struct Tally {
  C largest = 0;  // NaN gives way
  int count = 0;
  int beyond = 0, outside = 0;  // the magnitude; low and high

  template <class S, int kPack>
  __device__ void look(const Load<S, kPack> (&load)[kBatch], unsigned kept,
                       const Limits<C>& limits) {
    C most = 0;
    if (kept == kWholeBatch) {
      most = largest_of(load);
    } else {
#pragma unroll
      for (int j = 0; j < kBatch; ++j)
        if ((kept >> j & 1) != 0) most = larger(most, largest_of(load[j]));
    }
    largest = larger(largest, most);
    count += __popc(kept) * kPack;
    if (most <= limits.none) return;
    if constexpr (kSixteenBit<S> && kPack == 8) {
      using Pair = PairOf<S>;
      const Outliers<Pair> outliers(limits.magnitude, limits.low, limits.high);
      Pair far = Pair{S(0), S(0)}, out = far;  // up to 2 x 4 kBatch: exact
#pragma unroll
      for (int j = 0; j < kBatch; ++j)
        if ((kept >> j & 1) != 0) outliers.count(load[j], far, out);
      beyond += static_cast<int>(widen(far.x) + widen(far.y));
      outside += static_cast<int>(widen(out.x) + widen(out.y));
    } else {
#pragma unroll
      for (int j = 0; j < kBatch; ++j)
        if ((kept >> j & 1) != 0) count_outliers(load[j], limits);
    }
  }
  template <class S, int kPack>
  __device__ void count_outliers(const Load<S, kPack>& load, const Limits<C>& limits) {
    C x[kPack];
    widen_all(x, load);
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      outside += x[i] < limits.low || x[i] > limits.high ? 1 : 0;
      beyond += fabs(x[i]) > limits.magnitude ? 1 : 0;
    }
  }
};

template <class C>
__device__ void add(Tally<C>& to, const Tally<C>& other) {
  to.largest = larger(to.largest, other.largest);
  to.count += other.count;
  to.beyond += other.beyond;
  to.outside += other.outside;
}

template <class C>
__device__ Tally<C> warp_tally(Tally<C> x) {
  x.largest = warp_reduce(x.largest, [](C a, C b) { return larger(a, b); });
  x.count = __reduce_add_sync(0xffffffffu, x.count);
  x.beyond = __reduce_add_sync(0xffffffffu, x.beyond);
  x.outside = __reduce_add_sync(0xffffffffu, x.outside);
  return x;
}

/// What the warps of a block bring together.
template <class C, int kWarps>
struct alignas(16) Meeting {
  double powers[4][kWarps];
  char tallies[kWarps * sizeof(Tally<C>)];
  Powers sums;
  int count;
  bool fit;

  __device__ Tally<C>& tally(int warp) { return reinterpret_cast<Tally<C>*>(tallies)[warp]; }

  /// All threads call, after which everybody knows the sums of all, their count and whether the
  /// frame was fit for them, and the first thread the tally of all.
  __device__ void meet(const Powers& powers_, Tally<C>& tally_) {
    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    const double sum = warp_powers(powers_);
    const Tally<C> mine = warp_tally(tally_);
    if (lane % 8 == 0) powers[lane / 8][warp] = sum;
    if (lane == 0) tally(warp) = mine;
    __syncthreads();
    if (threadIdx.x == 0) {
      Powers p;
      tally_ = Tally<C>();
      for (int w = 0; w < kWarps; ++w) {
        p.s1 += powers[0][w], p.s2 += powers[1][w];
        p.s3 += powers[2][w], p.s4 += powers[3][w];
        add(tally_, tally(w));
      }
      sums = p;
      count = tally_.count;
      fit = count == 0 || fits(p, count);
    }
    __syncthreads();
  }
};

/// kPlain: without a frame.
template <bool kPlain, class S, int kPack>
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
      const C d = kPlain ? x[i] : fma(x[i], scale, shift), d2 = d * d;
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

/// For blocks of one warp, where it costs little: from the first load of every thread.
template <class S, int kPack>
__device__ Frame<Compute<S>> first_frame(const Load<S, kPack>& load, bool kept) {
  using C = Compute<S>;
  C x[kPack], sum = 0, radius = 0;
  widen_all(x, load);
#pragma unroll
  for (int i = 0; i < kPack; ++i) sum += kept ? x[i] : C(0);
  const int count = __popc(__ballot_sync(0xffffffffu, kept)) * kPack;
  const C centre = warp_reduce(sum, Plus()) / static_cast<C>(max(count, 1));
#pragma unroll
  for (int i = 0; i < kPack; ++i) radius = kept ? larger(radius, fabs(x[i] - centre)) : radius;
  return {centre, exponent_of(warp_reduce(radius, [](C a, C b) { return larger(a, b); }))};
}

/// A part that needs another frame.
template <class C>
struct Survey {
  C low = math::kInfinity<C>, high = -math::kInfinity<C>;
  bool is_nan = false;
};
/// All threads call and get the answer.
template <class S, int kPack, bool kRows, int kThreads>
__device__ Survey<Compute<S>> survey(const Part<S, kPack, kRows, kThreads>& part) {
  using C = Compute<S>;
  Load<S, kPack> load[kBatch];
  Survey<C> all;
  int found = 0;
  for (std::uint32_t at = part.begin + threadIdx.x; at < part.end; at += kBatch * kThreads) {
    const unsigned kept = part.read(load, at);
    for (int j = 0; j < kBatch; ++j) {
      if ((kept >> j & 1) == 0) continue;
      C x[kPack];
      widen_all(x, load[j]);
      for (int i = 0; i < kPack; ++i) {
        all.low = smaller(all.low, x[i]), all.high = larger(all.high, x[i]);
        found |= x[i] != x[i];
      }
    }
  }
  all.low = block_reduce<kThreads>(all.low, [](C a, C b) { return smaller(a, b); });
  all.high = block_reduce<kThreads>(all.high, [](C a, C b) { return larger(a, b); });
  all.is_nan = __syncthreads_or(found) != 0;
  return all;
}

/// All threads call; the first one gets the moments. Memory is read once, but for the parts that
/// need another frame: numbers far from 0 for their spread, of extreme size, not finite.
template <class S, int kPack, bool kRows, int kThreads>
__device__ Moments moments_of(const Part<S, kPack, kRows, kThreads>& part,
                              const OutlierLimits& given) {
  using C = Compute<S>;
  constexpr std::uint32_t kStep = kBatch * kThreads;
  constexpr bool kPlain = kThreads > kWarp;
  __shared__ Meeting<C, kThreads / kWarp> meeting;
  const Limits<C> limits = limits_for<S>(given);
  const std::uint32_t first = part.begin + threadIdx.x;
  Tally<C> tally;
  Powers powers;
  Frame<C> frame;
  {
    // A batch is on its way while the one before is worked on.
    Load<S, kPack> load[kBatch], coming[kBatch];
    unsigned kept = part.read(load, first), coming_kept = part.read(coming, first + kStep);
    if constexpr (!kPlain) frame = first_frame(load[0], (kept & 1) != 0);
    for (std::uint32_t at = first; at < part.end; at += 2 * kStep) {
      tally.look(load, kept, limits);
      add_powers<kPlain>(powers, load, kept, frame);
      kept = part.read(load, at + 2 * kStep);
      if (coming_kept != 0) {
        tally.look(coming, coming_kept, limits);
        add_powers<kPlain>(powers, coming, coming_kept, frame);
      }
      coming_kept = part.read(coming, at + 3 * kStep);
    }
  }
  Tally<C> all = tally;
  meeting.meet(powers, all);
  Survey<C> found;
  bool constant = false;
  if (!meeting.fit) {
    found = survey(part);
    constant = found.low == found.high;
    constexpr int kMostFrames = 2;
    for (int i = 0; i < kMostFrames && !meeting.fit && !found.is_nan && !constant &&
                    isfinite(found.low) && isfinite(found.high);
         ++i) {
      frame = reframed(frame, meeting.sums, meeting.count, found.low, found.high);
      powers = Powers();
      Load<S, kPack> load[kBatch];
      for (std::uint32_t at = first; at < part.end; at += kStep) {
        const unsigned kept = part.read(load, at);
        add_powers<false>(powers, load, kept, frame);
      }
      __syncthreads();  // all have read the meeting
      Tally<C> again = tally;
      meeting.meet(powers, again);
    }
  }
  Moments m;
  m.count = meeting.count;
  if (threadIdx.x != 0 || m.count == 0) return m;
  m.max_abs = found.is_nan ? math::kNaN<double> : static_cast<double>(all.largest);
  m.beyond_magnitude = all.beyond;
  m.outside = all.outside;
  if (constant && !found.is_nan)
    m.mean = found.low;  // exactly no variance
  else
    set_moments(m, meeting.sums, static_cast<double>(frame.centre), frame.exponent);
  return m;
}

struct Layout {
  std::int64_t units, parts, stride, sample_stride, unit_stride, rows;
  std::uint32_t loads, loads_of_part, loads_of_row;
};

/// A block per part, the last one first: what was written last may still be in the cache, and who
/// reads the activation next finds its beginning there.
template <class S, int kPack, bool kRows, int kThreads>
__global__ void __launch_bounds__(kThreads, (sizeof(S) == 8 ? 512 : 1024) / kThreads)
    moments_kernel(Moments* parts, const S* __restrict__ data,
                   const std::uint8_t* __restrict__ keep, Layout layout,
                   const OutlierLimits* limits) {
  const unsigned block = gridDim.x - 1 - blockIdx.x;
  const std::int64_t unit = block / layout.parts, sample = unit / layout.units;
  Part<S, kPack, kRows, kThreads> part{};
  part.data =
      data + sample * layout.sample_stride + (unit - sample * layout.units) * layout.unit_stride;
  part.keep = keep != nullptr ? keep + sample * layout.rows : nullptr;
  part.stride = layout.stride;
  part.begin = static_cast<std::uint32_t>(block - unit * layout.parts) * layout.loads_of_part;
  part.end = min(part.begin + layout.loads_of_part, layout.loads);
  part.loads_of_row = layout.loads_of_row;
  const Moments m = moments_of(part, *limits);
  if (threadIdx.x == 0) parts[block] = m;
}

template <class S, int kPack, bool kRows>
void start(const Context& ctx, Moments* parts, const Tensor& value, const SiteCut& cut,
           const Tensor& validity, const OutlierLimits* limits) {
  Layout layout{};
  layout.units = cut.units;
  layout.parts = parts_of_unit(cut, value.dtype);
  layout.stride = cut.stride;
  layout.sample_stride = cut.sample_stride;
  layout.unit_stride = cut.unit_stride;
  const std::int64_t values = cut.rows * cut.width;
  const Parts cutting = parts_for<S>(cut.samples * cut.units, values);
  QF_EXPECTS((values / kPack <= INT32_MAX - cutting.values - 4 * kStepValues<S, kMany>));
  layout.loads = static_cast<std::uint32_t>(values / kPack);
  layout.loads_of_part = static_cast<std::uint32_t>(cutting.values / kPack);
  layout.rows = cut.rows;
  layout.loads_of_row = static_cast<std::uint32_t>(cut.width / kPack);
  const std::int64_t blocks = cut.samples * cut.units * layout.parts;
  QF_EXPECTS(blocks <= INT32_MAX);
  const auto run = [&](auto* kernel) {
    launch(ctx, "site_moments",
           {dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(cutting.threads))},
           kernel, parts, value.as<S>(), cut.masked ? validity.as<std::uint8_t>() : nullptr, layout,
           limits);
  };
  if (cutting.threads == kFew)
    run(moments_kernel<S, kPack, kRows, kFew>);
  else
    run(moments_kernel<S, kPack, kRows, kMany>);
}

template <class S>
void start_as(const Context& ctx, Moments* parts, const Tensor& value, const SiteCut& cut,
              const Tensor& validity, const OutlierLimits* limits) {
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
    const std::int64_t values = cut.rows * cut.width;
    const std::int64_t of_part = parts_for<S>(cut.samples * cut.units, values).values;
    return (values + of_part - 1) / of_part;
  };
  return dispatch_storage(dtype, parts);
}

void site_moments(const Context& ctx, Moments* parts, const Tensor& value, const SiteCut& cut,
                  const Tensor& validity, const OutlierLimits* limits) {
  expect_on_device(ctx, value);
  QF_EXPECTS(!cut.masked || validity.device == ctx.device);
  const CurrentDevice current(ctx.device);
  dispatch_storage(value.dtype,
                   [&]<class S>() { start_as<S>(ctx, parts, value, cut, validity, limits); });
}

}  // namespace quietformer::cuda
