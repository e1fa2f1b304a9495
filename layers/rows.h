// For operations on rows of features: how a tensor falls into rows, how rows are shared out to
// threads, and the sum over rows that every parameter gradient needs. Internal to layers/.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "core/buffer.h"
#include "core/context.h"
#include "core/parallel.h"
#include "core/tensor.h"

namespace quietformer {

/// Elements that one parallel chunk of an elementwise loop handles: large against the cost of a
/// chunk, small against the cache.
inline constexpr std::int64_t kElementGrain = 16384;

/// Size of the last dimension.
inline std::int64_t columns_of(const Tensor& t) {
  return t.shape[t.shape.rank - 1];
}

/// Product of all other dimensions.
inline std::int64_t rows_of(const Tensor& t) {
  std::int64_t rows = 1;
  for (int i = 0; i + 1 < t.shape.rank; ++i) rows *= t.shape[i];
  return rows;
}

/// The same contiguous memory as (rows, columns).
inline Tensor as_rows(const Tensor& t) {
  return t.reshape({rows_of(t), columns_of(t)});
}

inline std::int64_t row_grain(std::int64_t columns) {
  return std::max<std::int64_t>(1, kElementGrain / std::max<std::int64_t>(1, columns));
}

/// The first elements of a slot's memory under a shape that is no larger than the declared one:
/// lets a model run on fewer sequences or tokens than it was declared for.
inline Tensor fit(const Slot& slot, const Shape& shape) {
  const Tensor whole = slot;
  QF_EXPECTS(whole && shape.count() <= whole.count());
  return Tensor(whole.data, whole.dtype, shape, whole.device);
}

/// f(i) for i in [begin, end), one vectorised loop. Iterations must not depend on each other; f may
/// read and write the same element, so outputs may alias inputs exactly.
template <class F>
void simd_for(std::int64_t begin, std::int64_t end, F f) {
#pragma omp simd
  for (std::int64_t i = begin; i < end; ++i) f(i);
}

/// The same over all elements of a tensor, shared out to threads.
template <class F>
void elementwise(const Context& ctx, std::int64_t count, const F& f) {
  parallel_for(ctx, count, kElementGrain,
               [&](std::int64_t begin, std::int64_t end) { simd_for(begin, end, f); });
}

/// out[c] += sum over r of term(r, c), for c in [0, columns). Threads share columns, and rows are
/// added in fixed chunks in order, so the result depends on the sizes alone.
template <class T, class Term>
void add_column_sums(const Context& ctx, T* out, std::int64_t rows, std::int64_t columns,
                     const Term& term) {
  constexpr std::int64_t kColumns = 32, kRows = 128;
  parallel_for(ctx, columns, kColumns, [&](std::int64_t begin, std::int64_t end) {
    // A whole block has a width known at compile time, so its sums stay in registers.
    const auto sum = [&](auto width) {
      T total[kColumns] = {};
      for (std::int64_t first = 0; first < rows; first += kRows) {
        T part[kColumns] = {};
        const std::int64_t last = std::min(rows, first + kRows);
        for (std::int64_t r = first; r < last; ++r)
          for (std::int64_t c = 0; c < width; ++c) part[c] += term(r, begin + c);
        for (std::int64_t c = 0; c < width; ++c) total[c] += part[c];
      }
      for (std::int64_t c = 0; c < width; ++c) out[begin + c] += total[c];
    };
    if (end - begin == kColumns)
      sum(std::integral_constant<std::int64_t, kColumns>());
    else
      sum(end - begin);
  });
}

/// Sum of term(i) over [0, n) in 16 interleaved parts, which a compiler turns into vector adds
/// without being allowed to reorder anything.
template <class T, class Term>
T lane_sum(std::int64_t n, const Term& term) {
  constexpr std::int64_t kLanes = 16;
  T lane[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (std::int64_t l = 0; l < kLanes; ++l) lane[l] += term(i + l);
  for (std::int64_t l = 0; i + l < n; ++l) lane[l] += term(i + l);
  for (std::int64_t width = kLanes / 2; width > 0; width /= 2)
    for (std::int64_t l = 0; l < width; ++l) lane[l] += lane[l + width];
  return lane[0];
}

}  // namespace quietformer
