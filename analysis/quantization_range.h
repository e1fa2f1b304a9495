// Static ranges of activations: what calibration batches say about where to put a grid.
//
// One pass counts numbers by the upper 16 bits of their f32 form (sign, exponent, 7 bits of
// fraction), so bins are 2^-7 of their numbers wide, whatever the scale: no first pass for the
// range, and no outlier makes the bins of the rest too wide. Counts are integers: the same on any
// device, with any number of threads. Within a bin numbers count as evenly spread.
//
//   minmax      smallest and largest number of all batches; with momentum m the running averages
//               r <- m r + (1 - m) batch, which start at the first batch
//   percentile  the quantiles 1 - p and p
//   mse         the range of least mean squared error of the numbers' grid, clipping and rounding
//               together: both ends among the extremes times 2^(-i/8), i = 0 ... 96, one after the
//               other until nothing gets better; then scales 2^(i/64) times that grid's,
//               i = -16 ... 16, with its zero point and three on either side
//
// Sources: Nagel et al., arXiv 2106.08295, 3.1 (ranges by min-max and MSE); Krishnamoorthi, arXiv
// 1806.08342 (running averages); Bondarenko et al., arXiv 2306.12929 (percentiles 99.99
// and 99.999).
#pragma once

#include <cstdint>
#include <vector>

#include "analysis/quantization.h"

namespace quietformer {

/// What observe() adds to, where the numbers are: `bins` i64 (kValueBins), and for one batch
/// `extremes` i32 (2), smallest and largest as value_key(). reset() before the first.
struct ValueCounts {
  Tensor bins, extremes;
};
inline constexpr std::int64_t kValueBins = 65536;

/// Zeros, and extremes of nothing.
void reset(const Context& ctx, const ValueCounts& counts);

/// Counts the numbers of `value` (f32 or f64, rounded to f32), contiguous or of rank 2 with any row
/// stride. On a GPU in the order of ctx.stream's work.
void observe(const Context& ctx, const ValueCounts& counts, const Tensor& value);

struct ValueRange {
  double low = 0, high = 0;
};

/// Counts that were read back, and the extremes of every batch.
class ValueDistribution {
 public:
  /// `bins` and `extremes` (batches, 2) on the host; of at least one number.
  ValueDistribution(const Tensor& bins, const Tensor& extremes);

  bool finite() const { return finite_; }  // if not, nothing else may be asked
  std::int64_t count() const { return count_; }
  ValueRange extremes() const;
  ValueRange running_extremes(double momentum) const;  // 0 <= momentum < 1
  /// The quantiles 1 - fraction and fraction, 0.5 < fraction <= 1.
  ValueRange percentiles(double fraction) const;
  ValueRange least_squares(int bits) const;
  /// Mean of (x - x^)^2.
  double squared_error(const Grid& grid) const;

 private:
  struct Cell {
    double low, high;  // where its numbers are
    double count;
  };
  double quantile(double fraction) const;

  std::vector<Cell> cells_;  // ascending
  std::vector<ValueRange> batches_;
  std::int64_t count_ = 0;
  bool finite_ = true;
};

}  // namespace quietformer
