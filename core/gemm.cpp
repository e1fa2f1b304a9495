// C is cut into tiles that depend on its shape alone; a tile is the sum of blocks of the depth,
// each a product of strips of A and panels of B (core/tile_product.h):
//
//   for tiles of C                      (parallel)
//     for blocks of the depth
//       pack the rows of A^T, if A is transposed
//       for panels of B's columns
//         pack the panel                it stays in the second-level cache, a strip in the first
//         for strips of A: C (strip, panel) += strip * panel
//
// gemm_serial runs inside a chunk: Eigen must not start threads of its own.
#define EIGEN_DONT_PARALLELIZE
// Eigen's packing buffers in gemm_serial fit the stack, so that a training step allocates nothing.
#define EIGEN_STACK_ALLOCATION_LIMIT (2 * 1024 * 1024)
#include "core/gemm.h"

#include <Eigen/Core>
#include <algorithm>

#include "core/cuda/gemm.h"
#include "core/parallel.h"
#include "core/tile_product.h"

namespace quietformer {
namespace {

template <class T>
using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class T>
using ConstMap = Eigen::Map<const Matrix<T>, 0, Eigen::OuterStride<>>;
template <class T>
using Map = Eigen::Map<Matrix<T>, 0, Eigen::OuterStride<>>;

struct Tile {
  std::int64_t rows, cols;
};

// Large enough to amortise packing, small enough that many cores find work: halved until there are
// kTiles of them or they reach kSmallest. Multiples of a strip's rows and of a panel.
Tile tile_of(std::int64_t m, std::int64_t n) {
  constexpr std::int64_t kTiles = 8;
  constexpr Tile kLargest{264, 256}, kSmallest{66, 64};
  Tile tile = kLargest;
  const auto count = [&] {
    return ((m + tile.rows - 1) / tile.rows) * ((n + tile.cols - 1) / tile.cols);
  };
  while (count() < kTiles) {
    if (tile.rows > kSmallest.rows &&
        (std::min(tile.rows, m) > std::min(tile.cols, n) || tile.cols == kSmallest.cols))
      tile.rows /= 2;
    else if (tile.cols > kSmallest.cols)
      tile.cols /= 2;
    else
      break;
  }
  return tile;
}

constexpr std::int64_t kDepth = 512;       // of a block
constexpr std::int64_t kPanelBytes = 256;  // of a row of the widest panel
constexpr std::int64_t kMostRows = 264;    // of a tile
constexpr std::int64_t kStripRows = 6;     // of the tallest strip

/// The memory of one tile, on the stack of its thread.
template <class T>
struct Packed {
  alignas(64) T panel[kDepth * kPanelBytes / sizeof(T)];
  alignas(64) T left[kMostRows * kDepth];  // rows of A^T, cut out of wider ones: fewer pages
  alignas(64) T edge[kStripRows * kPanelBytes / sizeof(T)];
};

/// One operand as op() leaves it: its element (i, j) is *at(i, j).
template <class T>
struct Operand {
  const T* data;
  std::int64_t ld;
  bool transposed;
  const T* at(std::int64_t i, std::int64_t j) const {
    return transposed ? data + j * ld + i : data + i * ld + j;
  }
};

/// C (m, n) of one tile.
template <class T>
void multiply_tile(std::int64_t m, std::int64_t n, std::int64_t k, T alpha, const Operand<T>& a,
                   const Operand<T>& b, T* c, std::int64_t ldc, Accumulate accumulate) {
  const StripShape shape = strip_shape<T>();
  QF_EXPECTS(shape.rows == kStripRows);
  Packed<T> memory;
  for (std::int64_t p = 0; p < k; p += kDepth) {
    const std::int64_t depth = std::min(kDepth, k - p);
    if (a.transposed) pack_rows(memory.left, m, a.at(0, p), a.ld, depth, m);
    for (std::int64_t j = 0; j < n; j += shape.panel) {
      const std::int64_t cols = std::min(shape.panel, n - j);
      if (b.transposed)
        pack_transposed(memory.panel, b.at(p, j), b.ld, cols, depth);
      else
        pack_rows(memory.panel, shape.panel, b.at(p, j), b.ld, depth, cols);
      const Panels<T> panel{memory.panel, shape.panel, shape.panel * depth};
      for (std::int64_t i = 0; i < m; i += shape.rows) {
        const std::int64_t rows = std::min(shape.rows, m - i);
        const Strip<T> strip =
            a.transposed ? Strip<T>{memory.left + i, 1, m} : Strip<T>{a.at(i, p), a.ld, 1};
        T* const out = c + i * ldc + j;
        if (cols % shape.vector == 0) {
          multiply_strip(rows, depth, 0, cols, alpha, strip, panel, out, ldc, accumulate);
          continue;
        }
        // Whole vectors would reach beyond C.
        multiply_strip(rows, depth, 0, cols, alpha, strip, panel, memory.edge, shape.panel,
                       Accumulate::overwrite);
        for (std::int64_t r = 0; r < rows; ++r)
          for (std::int64_t e = 0; e < cols; ++e) {
            T& element = out[r * ldc + e];
            element =
                memory.edge[r * shape.panel + e] + (accumulate == Accumulate::add ? element : T(0));
          }
      }
    }
    accumulate = Accumulate::add;
  }
}

}  // namespace

template <class T>
void gemm_serial(std::int64_t m, std::int64_t n, std::int64_t k, T alpha, const T* a,
                 std::int64_t lda, Transpose ta, const T* b, std::int64_t ldb, Transpose tb, T* c,
                 std::int64_t ldc, Accumulate accumulate) {
  if (m == 0 || n == 0) return;
  Map<T> out(c, m, n, Eigen::OuterStride<>(ldc));
  if (accumulate == Accumulate::overwrite) out.setZero();
  if (k == 0) return;
  const auto product = [&](const auto& left) {
    if (tb == Transpose::no)
      out.noalias() += alpha * left * ConstMap<T>(b, k, n, Eigen::OuterStride<>(ldb));
    else
      out.noalias() += alpha * left * ConstMap<T>(b, n, k, Eigen::OuterStride<>(ldb)).transpose();
  };
  if (ta == Transpose::no)
    product(ConstMap<T>(a, m, k, Eigen::OuterStride<>(lda)));
  else
    product(ConstMap<T>(a, k, m, Eigen::OuterStride<>(lda)).transpose());
}

template void gemm_serial(std::int64_t, std::int64_t, std::int64_t, float, const float*,
                          std::int64_t, Transpose, const float*, std::int64_t, Transpose, float*,
                          std::int64_t, Accumulate);
template void gemm_serial(std::int64_t, std::int64_t, std::int64_t, double, const double*,
                          std::int64_t, Transpose, const double*, std::int64_t, Transpose, double*,
                          std::int64_t, Accumulate);

void gemm(const Context& ctx, const Tensor& c, const Tensor& a, Transpose ta, const Tensor& b,
          Transpose tb, double alpha, Accumulate accumulate) {
  QF_EXPECTS(a.shape.rank == 2 && b.shape.rank == 2 && c.shape.rank == 2);
  const std::int64_t m = c.shape[0], n = c.shape[1];
  const std::int64_t k = ta == Transpose::no ? a.shape[1] : a.shape[0];
  QF_EXPECTS((ta == Transpose::no ? a.shape[0] : a.shape[1]) == m);
  QF_EXPECTS((tb == Transpose::no ? b.shape[0] : b.shape[1]) == k);
  QF_EXPECTS((tb == Transpose::no ? b.shape[1] : b.shape[0]) == n);
  QF_EXPECTS(a.stride[1] == 1 && b.stride[1] == 1 && c.stride[1] == 1);
  QF_EXPECTS(a.dtype == b.dtype);
  QF_EXPECTS(c.dtype == a.dtype || c.dtype == accumulation_dtype(a.dtype));
  if (ctx.device.type == DeviceType::cuda)
    return cuda::gemm(ctx, c, a, ta, b, tb, alpha, accumulate);
  QF_EXPECTS(a.dtype == accumulation_dtype(a.dtype));
  const Tile size = tile_of(m, n);
  const std::int64_t row_tiles = (m + size.rows - 1) / size.rows;
  const std::int64_t col_tiles = (n + size.cols - 1) / size.cols;
  dispatch_floating(c.dtype, [&]<class T>() {
    const Operand<T> left{a.as<T>(), a.stride[0], ta == Transpose::yes};
    const Operand<T> right{b.as<T>(), b.stride[0], tb == Transpose::yes};
    parallel_chunks(ctx, row_tiles * col_tiles, [&](std::int64_t tile, int) {
      const std::int64_t row = tile / col_tiles * size.rows, col = tile % col_tiles * size.cols;
      const std::int64_t rows = std::min(size.rows, m - row), cols = std::min(size.cols, n - col);
      T* const out = c.as<T>() + row * c.stride[0] + col;
      if (k == 0 && accumulate == Accumulate::overwrite)
        for (std::int64_t i = 0; i < rows; ++i) std::fill_n(out + i * c.stride[0], cols, T(0));
      multiply_tile<T>(rows, cols, k, T(alpha), {left.at(row, 0), left.ld, left.transposed},
                       {right.at(0, col), right.ld, right.transposed}, out, c.stride[0],
                       accumulate);
    });
  });
}

}  // namespace quietformer
