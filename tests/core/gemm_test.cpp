#include "core/gemm.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/buffer.h"

namespace quietformer {
namespace {

void fill(const Tensor& t, std::uint32_t stream) {
  const RandomKey key = stream_key(7, RandomPurpose::initialisation, stream, 0);
  for (std::int64_t i = 0; i < t.count(); ++i) {
    const double x = uniform24(philox(key, std::uint32_t(i), 0, 0, 0).word[0]) - 0.5;
    if (t.dtype == DType::f32)
      t.as<float>()[i] = float(x);
    else
      t.as<double>()[i] = x;
  }
}

/// Largest difference to a triple loop in f64, for one type and shape.
double error_of(DType dtype, std::int64_t m, std::int64_t n, std::int64_t k, Transpose ta,
                Transpose tb, Accumulate accumulate) {
  Context ctx;
  ctx.threads = 2;
  const OwnedTensor a(dtype, ta == Transpose::no ? Shape{m, k} : Shape{k, m}),
      b(dtype, tb == Transpose::no ? Shape{k, n} : Shape{n, k}), c(dtype, {m, n}),
      before(dtype, {m, n});
  fill(a, 1), fill(b, 2), fill(c, 3), fill(before, 3);
  gemm(ctx, c, a, ta, b, tb, 0.5, accumulate);
  double worst = 0;
  dispatch_floating(dtype, [&]<class T>() {
    for (std::int64_t i = 0; i < m; ++i)
      for (std::int64_t j = 0; j < n; ++j) {
        double sum = 0;
        for (std::int64_t p = 0; p < k; ++p)
          sum += double(a.as<T>()[ta == Transpose::no ? i * k + p : p * m + i]) *
                 double(b.as<T>()[tb == Transpose::no ? p * n + j : j * k + p]);
        sum *= 0.5;
        if (accumulate == Accumulate::add) sum += double(before.as<T>()[i * n + j]);
        worst = std::max(worst, std::abs(double(c.as<T>()[i * n + j]) - sum));
      }
  });
  return worst;
}

// Depths of several blocks and of none, columns that end within a vector, rows within a strip, more
// than one tile.
TEST(Gemm, MatchesTripleLoopForEveryTransposeAndAccumulate) {
  for (const auto [m, n, k] : {std::array<std::int64_t, 3>{37, 300, 65},
                               {1, 1, 1},
                               {6, 64, 256},
                               {70, 33, 600},
                               {530, 131, 257},
                               {5, 7, 0}})
    for (const Transpose ta : {Transpose::no, Transpose::yes})
      for (const Transpose tb : {Transpose::no, Transpose::yes})
        for (const Accumulate accumulate : {Accumulate::overwrite, Accumulate::add}) {
          EXPECT_LT(error_of(DType::f64, m, n, k, ta, tb, accumulate), 1e-13) << m << " " << n;
          EXPECT_LT(error_of(DType::f32, m, n, k, ta, tb, accumulate), 1e-5) << m << " " << n;
        }
}

TEST(Gemm, BitwiseIndependentOfThreads) {
  const std::int64_t m = 530, n = 270, k = 700;
  OwnedTensor a(DType::f32, {m, k}), b(DType::f32, {n, k}), one(DType::f32, {m, n}),
      many(DType::f32, {m, n});
  fill(a, 1), fill(b, 2);
  Context ctx;
  gemm(ctx, one, a, Transpose::no, b, Transpose::yes);
  for (int threads : {2, 3, 7}) {
    ctx.threads = threads;
    gemm(ctx, many, a, Transpose::no, b, Transpose::yes);
    EXPECT_EQ(0, std::memcmp(one.as<float>(), many.as<float>(), std::size_t(one.view().bytes())));
  }
}

TEST(Gemm, WritesOnlyItsPartOfAStridedOutput) {
  Context ctx;
  OwnedTensor a(DType::f32, {3, 4}), b(DType::f32, {4, 5}), c(DType::f32, {3, 9});
  fill(a, 1), fill(b, 2);
  for (int i = 0; i < 27; ++i) c.as<float>()[i] = 42;
  gemm(ctx, c.view().slice(1, 2, 5), a, Transpose::no, b, Transpose::no);
  for (int i = 0; i < 3; ++i)
    for (int j : {0, 1, 7, 8}) EXPECT_EQ(c.as<float>()[i * 9 + j], 42);
}

}  // namespace
}  // namespace quietformer
