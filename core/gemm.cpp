// Eigen's own threading is off: its blocking of K, and so the rounding, depends on the number of
// threads. We cut C into tiles instead; every element is one serial product over the whole of K.
#define EIGEN_DONT_PARALLELIZE
// The packing buffers of a tile fit the stack, so that a training step allocates nothing.
#define EIGEN_STACK_ALLOCATION_LIMIT (2 * 1024 * 1024)
#include "core/gemm.h"

#include <Eigen/Core>
#include <algorithm>

#include "core/parallel.h"

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
// kTiles of them or they reach kSmallest (whose packing costs about a tenth).
Tile tile_of(std::int64_t m, std::int64_t n) {
  constexpr std::int64_t kLargest = 256, kSmallest = 64, kTiles = 16;
  Tile tile{kLargest, kLargest};
  const auto count = [&] {
    return ((m + tile.rows - 1) / tile.rows) * ((n + tile.cols - 1) / tile.cols);
  };
  while (count() < kTiles) {
    std::int64_t& longer = std::min(tile.rows, m) > std::min(tile.cols, n) ? tile.rows : tile.cols;
    if (longer <= kSmallest) break;
    longer /= 2;
  }
  return tile;
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
  QF_EXPECTS(a.dtype == c.dtype && b.dtype == c.dtype);
  const Tile size = tile_of(m, n);
  const std::int64_t row_tiles = (m + size.rows - 1) / size.rows;
  const std::int64_t col_tiles = (n + size.cols - 1) / size.cols;
  dispatch_floating(c.dtype, [&]<class T>() {
    parallel_chunks(ctx, row_tiles * col_tiles, [&](std::int64_t tile, int) {
      const std::int64_t row = tile / col_tiles * size.rows, col = tile % col_tiles * size.cols;
      const std::int64_t rows = std::min(size.rows, m - row), cols = std::min(size.cols, n - col);
      const T* left = a.as<T>() + (ta == Transpose::no ? row * a.stride[0] : row);
      const T* right = b.as<T>() + (tb == Transpose::no ? col : col * b.stride[0]);
      gemm_serial<T>(rows, cols, k, T(alpha), left, a.stride[0], ta, right, b.stride[0], tb,
                     c.as<T>() + row * c.stride[0] + col, c.stride[0], accumulate);
    });
  });
}

}  // namespace quietformer
