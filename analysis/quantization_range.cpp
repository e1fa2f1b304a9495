#include "analysis/quantization_range.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "analysis/cuda/operations.h"
#include "analysis/value_key.h"
#include "core/cuda/memory.h"
#include "core/parallel.h"

namespace quietformer {
namespace {

constexpr std::int32_t kNone[] = {std::numeric_limits<std::int32_t>::max(),
                                  std::numeric_limits<std::int32_t>::min()};

/// The inverse of value_key(), which is its own.
double value_of(std::int32_t key) {
  return double(std::bit_cast<float>(value_key(key)));
}

template <class T>
void count_rows(const Context& ctx, const ValueCounts& counts, const Tensor& value) {
  const std::int64_t rows = value.shape[0], columns = value.shape[1];
  const auto threads = std::int64_t(std::max(1, ctx.threads));
  // Integers: how the numbers are dealt out to threads does not show.
  std::vector<std::vector<std::int64_t>> bins(static_cast<std::size_t>(threads));
  std::vector<std::int32_t> low(bins.size(), kNone[0]), high(bins.size(), kNone[1]);
  const std::int64_t piece = (value.count() + threads - 1) / threads;
  parallel_chunks(ctx, threads, [&](std::int64_t chunk, int) {
    auto& mine = bins[static_cast<std::size_t>(chunk)];
    mine.assign(static_cast<std::size_t>(kValueBins), 0);
    std::int32_t smallest = kNone[0], largest = kNone[1];
    const std::int64_t end = std::min(value.count(), (chunk + 1) * piece);
    for (std::int64_t i = chunk * piece; i < end;) {
      const std::int64_t row = i / columns, first = i % columns;
      const std::int64_t stretch = std::min(columns - first, end - i);
      const T* x = value.as<T>() + row * value.stride[0] + first;
      for (std::int64_t c = 0; c < stretch; ++c) {
        const auto bits = std::bit_cast<std::int32_t>(float(x[c]));
        const std::int32_t key = value_key(bits);
        ++mine[static_cast<std::size_t>(value_bin(bits))];
        smallest = std::min(smallest, key), largest = std::max(largest, key);
      }
      i += stretch;
    }
    low[static_cast<std::size_t>(chunk)] = smallest;
    high[static_cast<std::size_t>(chunk)] = largest;
  });
  QF_EXPECTS(rows > 0);
  auto* total = counts.bins.as<std::int64_t>();
  auto* extremes = counts.extremes.as<std::int32_t>();
  for (std::size_t t = 0; t < bins.size(); ++t) {
    for (std::size_t b = 0; b < bins[t].size(); ++b) total[b] += bins[t][b];
    extremes[0] = std::min(extremes[0], low[t]), extremes[1] = std::max(extremes[1], high[t]);
  }
}

/// Integral of (u - round(u))^2 from 0 to u.
double rounding_integral(double u) {
  const double nearest = std::rint(u), d = u - nearest;
  return nearest / 12 + d * d * d / 3;
}

/// Mean of (u - clamp(round(u)))^2 for u evenly spread over [a, b], a <= b.
double mean_error(double a, double b, double first, double last) {
  const auto cube = [](double x) { return x * x * x; };
  if (!(b - a >
        1e-9 * std::max(std::abs(a), std::abs(b)))) {  // one number, as far as this can tell
    const double error = a - std::clamp(std::rint(a), first, last);
    return error * error;
  }
  double sum = 0;
  if (a < first) {  // clipped
    const double end = std::min(b, first);
    sum += (cube(end - first) - cube(a - first)) / 3;
  }
  if (b > last) {
    const double begin = std::max(a, last);
    sum += (cube(b - last) - cube(begin - last)) / 3;
  }
  const double inside = std::clamp(a, first, last), outside = std::clamp(b, first, last);
  if (outside > inside) sum += rounding_integral(outside) - rounding_integral(inside);
  return sum / (b - a);
}

}  // namespace

void reset(const Context& ctx, const ValueCounts& counts) {
  QF_EXPECTS(counts.bins.count() == kValueBins && counts.extremes.count() % 2 == 0);
  const std::int64_t pairs = counts.extremes.count() / 2;
  const Tensor extremes = counts.extremes.reshape({pairs, 2});
  if (ctx.device.type == DeviceType::cuda) {
    OwnedTensor none(DType::i32, {pairs, 2});
    for (std::int64_t i = 0; i < 2 * pairs; ++i) none.as<std::int32_t>()[i] = kNone[i % 2];
    cuda::fill(ctx, counts.bins, 0);
    cuda::copy(extremes, none);
    return;
  }
  fill_zero(counts.bins);
  for (std::int64_t i = 0; i < 2 * pairs; ++i) extremes.as<std::int32_t>()[i] = kNone[i % 2];
}

void observe(const Context& ctx, const ValueCounts& counts, const Tensor& value) {
  QF_EXPECTS(counts.bins.count() == kValueBins && counts.extremes.count() == 2);
  if (value.count() == 0) return;
  const Tensor matrix = value.contiguous() ? value.reshape({1, value.count()}) : value;
  QF_EXPECTS(matrix.shape.rank == 2 && matrix.stride[1] == 1);
  if (ctx.device.type == DeviceType::cuda) return cuda::observe(ctx, counts, matrix);
  dispatch_floating(value.dtype, [&]<class T>() { count_rows<T>(ctx, counts, matrix); });
}

ValueDistribution::ValueDistribution(const Tensor& bins, const Tensor& extremes) {
  QF_EXPECTS(bins.count() == kValueBins && extremes.shape.rank == 2 && extremes.shape[1] == 2);
  const auto* keys = extremes.as<std::int32_t>();
  for (std::int64_t batch = 0; batch < extremes.shape[0]; ++batch)
    batches_.push_back({value_of(keys[2 * batch]), value_of(keys[2 * batch + 1])});
  QF_EXPECTS(!batches_.empty());
  for (const ValueRange& range : batches_)
    finite_ = finite_ && std::isfinite(range.low) && std::isfinite(range.high);
  const auto* counts = bins.as<std::int64_t>();
  for (std::int64_t bin = 0; bin < kValueBins; ++bin) count_ += counts[bin];
  QF_EXPECTS(count_ > 0);
  if (!finite_) return;
  const ValueRange all = this->extremes();
  for (std::int64_t bin = 0; bin < kValueBins; ++bin) {
    if (counts[bin] == 0) continue;
    const auto key = static_cast<std::int32_t>((bin - 32768) * 65536);
    // To the next bin, which for the last finite one is infinity's: hence the clamp.
    const double low = value_of(key), high = value_of(key + 65535);
    cells_.push_back({std::clamp(low, all.low, all.high), std::clamp(high, all.low, all.high),
                      double(counts[bin])});
  }
}

ValueRange ValueDistribution::extremes() const {
  ValueRange all = batches_.front();
  for (const ValueRange& batch : batches_)
    all = {std::min(all.low, batch.low), std::max(all.high, batch.high)};
  return all;
}

ValueRange ValueDistribution::running_extremes(double momentum) const {
  QF_EXPECTS(momentum >= 0 && momentum < 1);
  ValueRange running = batches_.front();
  for (const ValueRange& batch : batches_)
    running = {momentum * running.low + (1 - momentum) * batch.low,
               momentum * running.high + (1 - momentum) * batch.high};
  return running;
}

double ValueDistribution::quantile(double fraction) const {
  const double rank = fraction * double(count_);
  double below = 0;
  for (const Cell& cell : cells_) {
    if (below + cell.count >= rank)
      return cell.low + (cell.high - cell.low) * std::max(0.0, (rank - below) / cell.count);
    below += cell.count;
  }
  return cells_.back().high;
}

ValueRange ValueDistribution::percentiles(double fraction) const {
  QF_EXPECTS(fraction > 0.5 && fraction <= 1);
  return {quantile(1 - fraction), quantile(fraction)};
}

double ValueDistribution::squared_error(const Grid& grid) const {
  const double scale = grid.scale;
  double sum = 0;
  for (const Cell& cell : cells_)
    sum += cell.count * mean_error(cell.low / scale + grid.zero, cell.high / scale + grid.zero,
                                   grid.first, grid.last);
  return sum * scale * scale / double(count_);
}

ValueRange ValueDistribution::least_squares(int bits) const {
  const ValueRange all = extremes();
  ValueRange best = all;
  double least = squared_error(asymmetric_grid(all.low, all.high, bits));
  const auto consider = [&](double low, double high) {
    const double error = squared_error(asymmetric_grid(low, high, bits));
    if (!(error < least)) return false;
    least = error, best = {low, high};
    return true;
  };
  constexpr int kSteps = 96, kFineSteps = 16;  // of an eighth, and of a sixty-fourth of an octave
  constexpr int kZeros = 3;
  const auto shrink = [](int i) { return std::exp2(-i / 8.0); };
  for (int i = 1; i <= kSteps; ++i) consider(all.low * shrink(i), all.high * shrink(i));
  for (bool better = true; better;) {
    better = false;
    for (int i = 0; i <= kSteps; ++i) better |= consider(best.low, all.high * shrink(i));
    for (int i = 0; i <= kSteps; ++i) better |= consider(all.low * shrink(i), best.high);
  }
  // Other zero points: with few bits the error jumps from one to the next.
  const Grid coarse = asymmetric_grid(best.low, best.high, bits);
  for (int i = -kFineSteps; i <= kFineSteps; ++i)
    for (int zero = coarse.zero - kZeros; zero <= coarse.zero + kZeros; ++zero) {
      if (zero < 0 || zero > coarse.last) continue;
      const double scale = double(coarse.scale) * std::exp2(i / 64.0);
      consider(-scale * zero, scale * (coarse.last - zero));
    }
  return best;
}

}  // namespace quietformer
