#include "analysis/quantization.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "analysis/cuda/operations.h"
#include "core/parallel.h"

namespace quietformer {
namespace {

constexpr std::int64_t kGrain = 16384;  // numbers of a parallel chunk

float checked_scale(double scale) {
  QF_EXPECTS(std::isfinite(scale) && scale >= 0);
  if (scale == 0) return 1;
  // Smaller ones have no finite inverse.
  return std::max(float(scale), std::numeric_limits<float>::min());
}

void expect_bits(int bits) {
  QF_EXPECTS(bits >= kFewestBits && bits <= kMostBits);
}

template <class T>
class Rounding {
 public:
  explicit Rounding(const Grid& grid)
      : scale_(T(grid.scale)),
        inverse_(T(1) / T(grid.scale)),
        zero_(T(grid.zero)),
        first_(T(grid.first)),
        last_(T(grid.last)) {}
  T operator()(T x) const {
    T q = std::rint(x * inverse_) + zero_;
    q = q < first_ ? first_ : q;
    q = q > last_ ? last_ : q;
    return (q - zero_) * scale_;
  }

 private:
  T scale_, inverse_, zero_, first_, last_;
};

/// Contiguous memory as one row.
Tensor as_matrix(const Tensor& t) {
  if (t.contiguous()) return t.reshape({1, t.count()});
  QF_EXPECTS(t.shape.rank == 2 && t.stride[1] == 1);
  return t;
}

template <class T>
double squared_error(const T* row, std::int64_t count, const Grid& grid) {
  const Rounding<T> rounding(grid);
  double sum = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const double error = double(row[i]) - double(rounding(row[i]));
    sum += error * error;
  }
  return sum;
}

/// The grid for some weights.
template <class T>
Grid weight_grid(const T* row, std::int64_t count, const WeightQuantization& how) {
  double max_abs = 0;
  for (std::int64_t i = 0; i < count; ++i) max_abs = std::max(max_abs, std::abs(double(row[i])));
  Grid best = symmetric_grid(max_abs, how.bits);
  if (how.range == WeightRange::minmax) return best;
  double least = squared_error(row, count, best);
  for (int i = 1; i < 128; ++i) {
    const Grid grid = symmetric_grid(max_abs * std::exp2(-i / 16.0), how.bits);
    const double error = squared_error(row, count, grid);
    if (error < least) least = error, best = grid;
  }
  return best;
}

}  // namespace

Grid symmetric_grid(double max_abs, int bits) {
  expect_bits(bits);
  Grid grid;
  grid.last = (std::int32_t{1} << (bits - 1)) - 1;
  grid.first = -grid.last;
  grid.scale = checked_scale(max_abs / grid.last);
  return grid;
}

Grid asymmetric_grid(double low, double high, int bits) {
  expect_bits(bits);
  QF_EXPECTS(low <= high);
  low = std::min(low, 0.0), high = std::max(high, 0.0);
  Grid grid;
  grid.last = (std::int32_t{1} << bits) - 1;
  grid.scale = checked_scale((high - low) / grid.last);
  // A scale held up from 0 would put z beyond the grid.
  grid.zero =
      std::int32_t(std::clamp(std::rint(-low / double(grid.scale)), 0.0, double(grid.last)));
  return grid;
}

void fake_quantize(const Context& ctx, const Tensor& out, const Tensor& in, const Grid& grid) {
  QF_EXPECTS(out.shape == in.shape && out.dtype == in.dtype);
  // One with a row stride is a matrix, and so is the other then.
  const bool flat = out.contiguous() && in.contiguous();
  const Tensor to = flat ? as_matrix(out) : out, from = flat ? as_matrix(in) : in;
  QF_EXPECTS(to.shape.rank == 2 && to.stride[1] == 1 && from.stride[1] == 1);
  if (to.count() == 0) return;
  if (ctx.device.type == DeviceType::cuda) return cuda::fake_quantize(ctx, to, from, grid);
  const std::int64_t rows = to.shape[0], columns = to.shape[1];
  const std::int64_t pieces = (columns + kGrain - 1) / kGrain;
  dispatch_floating(to.dtype, [&]<class T>() {
    const Rounding<T> rounding(grid);
    const std::int64_t grain = std::max<std::int64_t>(1, kGrain / columns);
    parallel_for(ctx, rows * pieces, grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t row = i / pieces, first = i % pieces * kGrain;
        T* y = to.as<T>() + row * to.stride[0];
        const T* x = from.as<T>() + row * from.stride[0];
        const std::int64_t last = std::min(columns, first + kGrain);
        for (std::int64_t c = first; c < last; ++c) y[c] = rounding(x[c]);
      }
    });
  });
}

QuantizedWeights quantize_weights(const Context& ctx, const Tensor& weight,
                                  const WeightQuantization& how) {
  QF_EXPECTS(weight.shape.rank == 2 && weight.contiguous() && weight.count() > 0);
  Context host = ctx;
  host.device = {};
  const bool by_channel = how.scales == WeightScales::channel;
  const std::int64_t groups = by_channel ? weight.shape[0] : 1, size = weight.count() / groups;
  QuantizedWeights result{OwnedTensor(weight.dtype, weight.shape)};
  std::vector<double> errors(static_cast<std::size_t>(groups)), highs = errors;
  dispatch_floating(weight.dtype, [&]<class T>() {
    parallel_chunks(host, groups, [&](std::int64_t group, int) {
      const T* from = weight.as<T>() + group * size;
      T* to = result.values.as<T>() + group * size;
      const Grid grid = weight_grid(from, size, how);
      const Rounding<T> rounding(grid);
      for (std::int64_t i = 0; i < size; ++i) to[i] = rounding(from[i]);
      errors[static_cast<std::size_t>(group)] = squared_error(from, size, grid);
      highs[static_cast<std::size_t>(group)] = grid.high();
    });
  });
  result.high = *std::max_element(highs.begin(), highs.end());
  result.low = -result.high;
  for (const double error : errors) result.squared_error += error / double(weight.count());
  return result;
}

}  // namespace quietformer
