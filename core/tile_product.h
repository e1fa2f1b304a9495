// The innermost loop of matrix products on the CPU: a strip of a few rows times a matrix whose
// columns lie in panels, held in vector registers while the sum runs.
//
//            columns: panels of panel() columns, each `depth` rows of ld elements
//          +----------+----------+--           strip: at most rows() rows of A, read element by
//   depth  | B, panel 0 | panel 1 |            element with any two strides, so A^T costs nothing
//          +----------+----------+--
//   A rows [ C strip: registers  ]
//
// Built for the instruction set that the library is compiled for. The order of a sum depends on
// nothing but its terms: one chain of fused multiply-adds per element, in order of depth.
#pragma once

#include <cstdint>

#include "core/gemm.h"

namespace quietformer {

/// Sizes of the register tile, in elements; constants of the build.
struct StripShape {
  std::int64_t rows;    // rows of a full strip
  std::int64_t vector;  // elements of a vector register
  std::int64_t panel;   // columns of a full panel, a multiple of vector
};

template <class T>
StripShape strip_shape();

/// A strip: element (r, p) is data[r * row + p * step].
template <class T>
struct Strip {
  const T* data = nullptr;
  std::int64_t row = 0, step = 0;
};

/// A right-hand matrix: element (p, c) is data[c / panel * panel_stride + p * ld + c % panel].
/// A row-major matrix has panel_stride = panel. Columns must be readable up to a multiple of
/// vector.
template <class T>
struct Panels {
  const T* data = nullptr;
  std::int64_t ld = 0, panel_stride = 0;
};

/// Largest and sum of row[begin, end), both whole vectors; -inf and 0 for an empty range. The order
/// of the sum depends on the length alone.
template <class T>
T largest(const T* row, std::int64_t begin, std::int64_t end);
template <class T>
T sum(const T* row, std::int64_t begin, std::int64_t end);

/// Writes `rows` rows of `width` elements as columns 0 .. rows of panels of depth `width`
/// (panel_stride = panel * width): the transpose. Columns up to a multiple of vector become zero.
template <class T>
void pack_transposed(T* panels, const T* from, std::int64_t ld, std::int64_t rows,
                     std::int64_t width);

/// to[i] = from[i] for `rows` rows of `width` elements; zeros from there up to ld_to.
template <class T>
void pack_rows(T* to, std::int64_t ld_to, const T* from, std::int64_t ld_from, std::int64_t rows,
               std::int64_t width);

/// C (rows, columns [begin, end)) = alpha * A (rows, depth) B, or C += that. rows <= shape.rows.
/// `c` points at column 0, with ldc elements between rows. Whole vectors are computed and written:
/// columns from begin rounded down to end rounded up to a multiple of vector; nothing when begin =
/// end. C overlaps neither input.
template <class T>
void multiply_strip(std::int64_t rows, std::int64_t depth, std::int64_t begin, std::int64_t end,
                    T alpha, const Strip<T>& a, const Panels<T>& b, T* c, std::int64_t ldc,
                    Accumulate accumulate);

}  // namespace quietformer
