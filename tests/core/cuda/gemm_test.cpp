// Matrix products on a GPU against the CPU's.
#include "core/gemm.h"

#include <array>

#include "tests/support/tensors.h"

namespace quietformer {
namespace {

using namespace test;

constexpr Device kGpu{DeviceType::cuda, 0};

class GpuGemm : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string reason = cuda::unavailable(); !reason.empty()) GTEST_SKIP() << reason;
    gpu_.device = kGpu;
  }
  Context cpu_, gpu_;
};

TEST_F(GpuGemm, AgreesWithTheCpuForEveryTransposeAndAccumulate) {
  for (const auto [m, n, k] : {std::array<std::int64_t, 3>{37, 300, 65},
                               {1, 1, 1},
                               {530, 131, 257},
                               {64, 768, 4096},
                               {5, 7, 0},
                               {0, 7, 3}})
    for (const Transpose ta : {Transpose::no, Transpose::yes})
      for (const Transpose tb : {Transpose::no, Transpose::yes})
        for (const Accumulate accumulate : {Accumulate::overwrite, Accumulate::add}) {
          const OwnedTensor a = normal(DType::f64, ta == Transpose::no ? Shape{m, k} : Shape{k, m},
                                       1),
                            b = normal(DType::f64, tb == Transpose::no ? Shape{k, n} : Shape{n, k},
                                       2),
                            want = normal(DType::f64, {m, n}, 3);
          for (const DType dtype : {DType::f64, DType::f32}) {
            const OwnedTensor c = copy_to(kGpu, copy_as(want, dtype));
            gemm(gpu_, c, copy_to(kGpu, copy_as(a, dtype)), ta, copy_to(kGpu, copy_as(b, dtype)),
                 tb, 0.5, accumulate);
            const OwnedTensor exact = copy_of(want);
            gemm(cpu_, exact, a, ta, b, tb, 0.5, accumulate);
            // TF32 would be 1e-3 off.
            EXPECT_TRUE(close(copy_to({}, c), exact, dtype == DType::f64 ? 1e-14 : 2e-6))
                << m << " " << n << " " << k << " " << name_of(dtype);
          }
        }
}

TEST_F(GpuGemm, WritesOnlyItsPartOfAStridedOutput) {
  const OwnedTensor a = normal(DType::f32, {30, 44}, 1), b = normal(DType::f32, {44, 50}, 2);
  const OwnedTensor want(DType::f32, {30, 21}), c(DType::f32, {30, 40}, kGpu);
  gemm(cpu_, want, a.view().slice(1, 3, 40), Transpose::no,
       b.view().slice(0, 4, 40).slice(1, 5, 21), Transpose::no);
  fill_any(c, 42);
  gemm(gpu_, c.view().slice(1, 2, 21), copy_to(kGpu, a).view().slice(1, 3, 40), Transpose::no,
       copy_to(kGpu, b).view().slice(0, 4, 40).slice(1, 5, 21), Transpose::no);
  const OwnedTensor host = copy_to({}, c);
  EXPECT_TRUE(close(host.view().slice(1, 2, 21), want, 1e-6));
  for (int i = 0; i < 30; ++i)
    for (int j = 0; j < 40; ++j)
      if (j < 2 || j >= 23) {
        EXPECT_EQ(host.as<float>()[i * 40 + j], 42);
      }
}

// Large enough that algorithms are timed, which must leave no trace in what is added to.
TEST_F(GpuGemm, AddsOnceWhereAlgorithmsAreTimed) {
  constexpr std::int64_t kSize = 1024, kDepth = 10240;
  const OwnedTensor a = copy_to(kGpu, normal(DType::f32, {kDepth, kSize}, 1)),
                    b = copy_to(kGpu, normal(DType::f32, {kDepth, kSize}, 2)),
                    start = normal(DType::f32, {kSize, kSize}, 3, 100);
  for (const Accumulate accumulate : {Accumulate::overwrite, Accumulate::add}) {
    const OwnedTensor want = copy_to(kGpu, start), got = copy_to(kGpu, start);
    gemm(gpu_, want, a, Transpose::yes, b, Transpose::no, 1, accumulate);
    Context timed = gpu_;
    timed.deterministic = false;
    gemm(timed, got, a, Transpose::yes, b, Transpose::no, 1, accumulate);
    EXPECT_TRUE(close(copy_to({}, got), copy_to({}, want), 1e-5));
  }
}

TEST_F(GpuGemm, RepeatsBitwise) {
  // Deep and narrow: where a split of the depth tempts.
  const OwnedTensor a = copy_to(kGpu, normal(DType::f32, {20000, 96}, 1)),
                    b = copy_to(kGpu, normal(DType::f32, {20000, 64}, 2)),
                    first(DType::f32, {96, 64}, kGpu);
  gemm(gpu_, first, a, Transpose::yes, b, Transpose::no);
  for (int round = 0; round < 10; ++round) {
    const OwnedTensor again(DType::f32, {96, 64}, kGpu);
    gemm(gpu_, again, a, Transpose::yes, b, Transpose::no);
    EXPECT_TRUE(same_bits(copy_to({}, again), copy_to({}, first)));
  }
}

}  // namespace
}  // namespace quietformer
