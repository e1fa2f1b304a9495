#include "core/gemm.h"

#include <gtest/gtest.h>

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

TEST(Gemm, MatchesTripleLoopForEveryTransposeAndAccumulate) {
  Context ctx;
  ctx.threads = 2;
  const std::int64_t m = 37, n = 300, k = 65;
  for (const Transpose ta : {Transpose::no, Transpose::yes})
    for (const Transpose tb : {Transpose::no, Transpose::yes})
      for (const Accumulate accumulate : {Accumulate::overwrite, Accumulate::add}) {
        OwnedTensor a(DType::f64, ta == Transpose::no ? Shape{m, k} : Shape{k, m});
        OwnedTensor b(DType::f64, tb == Transpose::no ? Shape{k, n} : Shape{n, k});
        OwnedTensor c(DType::f64, {m, n}), before(DType::f64, {m, n});
        fill(a, 1), fill(b, 2), fill(c, 3), fill(before, 3);
        gemm(ctx, c, a, ta, b, tb, 0.5, accumulate);
        for (std::int64_t i = 0; i < m; ++i)
          for (std::int64_t j = 0; j < n; ++j) {
            double sum = 0;
            for (std::int64_t p = 0; p < k; ++p)
              sum += (ta == Transpose::no ? a.as<double>()[i * k + p] : a.as<double>()[p * m + i]) *
                     (tb == Transpose::no ? b.as<double>()[p * n + j] : b.as<double>()[j * k + p]);
            sum *= 0.5;
            if (accumulate == Accumulate::add) sum += before.as<double>()[i * n + j];
            ASSERT_NEAR(c.as<double>()[i * n + j], sum, 1e-12);
          }
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
