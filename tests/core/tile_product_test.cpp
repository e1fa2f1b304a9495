#include "core/tile_product.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/tensors.h"

namespace quietformer {
namespace {

template <class T>
class TileProduct : public testing::Test {};
using Types = testing::Types<float, double>;
TYPED_TEST_SUITE(TileProduct, Types);

template <class T>
std::vector<T> normals(std::int64_t count, std::uint32_t seed) {
  const OwnedTensor tensor = test::normal(dtype_of<T>(), {count}, seed);
  return {tensor.as<T>(), tensor.as<T>() + count};
}

// Every number of rows, ranges of columns that begin and end anywhere, both ways to read A, both
// forms of B; nothing is written but whole vectors around the range.
TYPED_TEST(TileProduct, MultiplyStripIsTheProduct) {
  using T = TypeParam;
  const StripShape shape = strip_shape<T>();
  const std::int64_t depth = 7, width = 2 * shape.panel + shape.vector, lda = 13, ldc = width + 3;
  const std::vector<T> a = normals<T>(lda * (shape.rows + depth), 1),
                       b = normals<T>(depth * 3 * shape.panel, 2);
  for (std::int64_t rows = 1; rows <= shape.rows; ++rows)
    for (const bool transposed : {false, true})
      for (const bool panels : {false, true})
        for (const auto& [begin, end] : std::vector<std::pair<std::int64_t, std::int64_t>>{
                 {0, width},
                 {3, 3},
                 {0, 1},
                 {1, shape.panel + 1},
                 {shape.vector, shape.vector},
                 {shape.panel - 1, width - 1},
                 {shape.panel + 1, shape.panel + shape.vector + 1}})
          for (const Accumulate accumulate : {Accumulate::overwrite, Accumulate::add}) {
            const Strip<T> strip{a.data(), transposed ? 1 : lda, transposed ? lda : 1};
            const Panels<T> right = panels ? Panels<T>{b.data(), shape.panel, depth * shape.panel}
                                           : Panels<T>{b.data(), 3 * shape.panel, shape.panel};
            std::vector<T> c(std::size_t(ldc * shape.rows), T(5));
            multiply_strip(rows, depth, begin, end, T(0.5), strip, right, c.data(), ldc,
                           accumulate);
            const std::int64_t first = begin / shape.vector * shape.vector,
                               last = begin == end
                                          ? first
                                          : (end + shape.vector - 1) / shape.vector * shape.vector;
            for (std::int64_t r = 0; r < shape.rows; ++r)
              for (std::int64_t j = 0; j < ldc; ++j) {
                double want = accumulate == Accumulate::add ? 5 : 0;
                for (std::int64_t p = 0; p < depth; ++p) {
                  const std::int64_t at = panels ? j / shape.panel * depth * shape.panel +
                                                       p * shape.panel + j % shape.panel
                                                 : p * 3 * shape.panel + j;
                  if (j < width)
                    want += 0.5 * double(a[std::size_t(r * strip.row + p * strip.step)]) *
                            double(b[std::size_t(at)]);
                }
                if (r >= rows || j < first || j >= last) want = 5;
                ASSERT_NEAR(double(c[std::size_t(r * ldc + j)]), want, 20 * 1.2e-7)
                    << rows << " rows, [" << begin << ", " << end << "), " << r << ", " << j;
              }
          }
}

TYPED_TEST(TileProduct, PackTransposedFillsPanelsAndPadsVectors) {
  using T = TypeParam;
  const StripShape shape = strip_shape<T>();
  for (const std::int64_t width : {1, 5, 16, 40})
    for (const std::int64_t rows :
         {std::int64_t{0}, std::int64_t{1}, shape.vector, shape.panel - 1, shape.panel + 3}) {
      const std::int64_t ld = width + 3, panels = rows / shape.panel + 1;
      const std::vector<T> from = normals<T>(ld * (rows + 1), 3);
      std::vector<T> to(std::size_t(panels * shape.panel * width), T(9));
      pack_transposed(to.data(), from.data(), ld, rows, width);
      const std::int64_t padded = (rows + shape.vector - 1) / shape.vector * shape.vector;
      for (std::int64_t i = 0; i < panels * shape.panel; ++i)
        for (std::int64_t c = 0; c < width; ++c) {
          const T want = i < rows ? from[std::size_t(i * ld + c)] : (i < padded ? T(0) : T(9));
          ASSERT_EQ(to[std::size_t(i / shape.panel * shape.panel * width + c * shape.panel +
                                   i % shape.panel)],
                    want)
              << i << ", " << c << " of " << rows << ", " << width;
        }
    }
}

TYPED_TEST(TileProduct, PackRowsPadsWithZeros) {
  using T = TypeParam;
  const std::vector<T> from = normals<T>(5 * 50, 4);
  for (const std::int64_t width : {1, 7, 16, 40}) {
    const std::int64_t ld = width + 5;
    std::vector<T> to(std::size_t(6 * ld), T(9));
    pack_rows(to.data(), ld, from.data(), 50, 5, width);
    for (std::int64_t i = 0; i < 6; ++i)
      for (std::int64_t c = 0; c < ld; ++c)
        ASSERT_EQ(to[std::size_t(i * ld + c)],
                  i == 5 ? T(9) : (c < width ? from[std::size_t(i * 50 + c)] : T(0)));
  }
}

TYPED_TEST(TileProduct, LargestAndSumOfWholeVectors) {
  using T = TypeParam;
  const std::int64_t vector = strip_shape<T>().vector;
  const std::vector<T> row = normals<T>(vector * 12, 5);
  for (std::int64_t first = 0; first <= 2; ++first)
    for (std::int64_t last = first; last <= 12; ++last) {
      T high = -INFINITY;
      double total = 0;
      for (std::int64_t j = first * vector; j < last * vector; ++j)
        high = std::max(high, row[std::size_t(j)]), total += double(row[std::size_t(j)]);
      EXPECT_EQ(largest(row.data(), first * vector, last * vector), high);
      EXPECT_NEAR(double(sum(row.data(), first * vector, last * vector)), total, 1e-5);
    }
}

}  // namespace
}  // namespace quietformer
