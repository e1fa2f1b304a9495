// Rounding and counting on a GPU, bit for bit as on the CPU. Skips with the reason where there is
// no GPU.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "analysis/quantization_range.h"
#include "tests/support/tensors.h"

namespace quietformer {
namespace {

using namespace test;

constexpr Device kGpu{DeviceType::cuda, 0};

class GpuQuantization : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string reason = cuda::unavailable(); !reason.empty()) GTEST_SKIP() << reason;
    gpu_.device = kGpu;
  }
  Context cpu_, gpu_;
};

constexpr std::int64_t kNaN = 40;  // the element that is one

/// Ordinary numbers, outliers, zeros of both signs, what is tiny and what is not finite.
OwnedTensor numbers(DType dtype, const Shape& shape) {
  OwnedTensor x = normal(dtype, shape, 4, 2.0);
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const double special[] = {0.0,   -0.0,      1e-30,      -1e-42,      900,
                            -1e20, kInfinity, -kInfinity, std::nan("")};
  for (std::int64_t i = 0; i < std::int64_t(std::size(special)); ++i) set(x, 5 * i, special[i]);
  QF_EXPECTS(std::isnan(get(x, kNaN)));
  return x;
}

OwnedTensor on_host(const Tensor& tensor) {
  OwnedTensor host(tensor.dtype, tensor.shape);
  if (tensor.device.type == DeviceType::cuda)
    cuda::copy(host, tensor);
  else
    std::memcpy(host.view().data, tensor.data, std::size_t(tensor.bytes()));
  return host;
}

/// The same bits, but for those of NaN.
void expect_same(const Tensor& there, const Tensor& here) {
  const OwnedTensor got = on_host(there);
  for (std::int64_t i = 0; i < here.count(); ++i)
    ASSERT_TRUE(get(got, i) == get(here, i) ||
                (std::isnan(get(got, i)) && std::isnan(get(here, i))))
        << "element " << i << ": " << get(got, i) << ", the CPU has " << get(here, i);
}

TEST_F(GpuQuantization, RoundsAsTheCpu) {
  for (const DType dtype : {DType::f32, DType::f64})
    for (const Grid& grid : {asymmetric_grid(-3, 5, 8), asymmetric_grid(-3, 5, 2),
                             asymmetric_grid(0, 1000, 15), symmetric_grid(4, 4)}) {
      const OwnedTensor host = numbers(dtype, {131, 77}), there = copy_to(kGpu, host);
      const OwnedTensor want(dtype, host.view().shape), got(dtype, host.view().shape, kGpu);
      fake_quantize(cpu_, want, host, grid);
      fake_quantize(gpu_, got, there, grid);
      expect_same(got, want);
      // In place, some columns of each row.
      const Tensor here_part = host.view().slice(1, 9, 40), part = there.view().slice(1, 9, 40);
      fake_quantize(cpu_, here_part, here_part, grid);
      fake_quantize(gpu_, part, part, grid);
      expect_same(there, host);
    }
}

TEST_F(GpuQuantization, CountsAsTheCpu) {
  for (const DType dtype : {DType::f32, DType::f64})
    for (const Shape& shape : {Shape{1000, 77}, Shape{9, 5}, Shape{3, 41, 500}}) {
      const OwnedTensor host = numbers(dtype, shape);
      set(host, kNaN, 1);  // conversions to f32 leave it other bits
      const OwnedTensor there = copy_to(kGpu, host);
      const auto count = [&](const Context& ctx, const Tensor& x) {
        const OwnedTensor bins(DType::i64, {kValueBins}, ctx.device);
        const OwnedTensor extremes(DType::i32, {2, 2}, ctx.device);
        reset(ctx, {bins, extremes});
        observe(ctx, {bins, extremes.view().slice(0, 0, 1)}, x);
        const Tensor second = extremes.view().slice(0, 1, 1);
        observe(ctx, {bins, second}, x.shape.rank == 2 ? x.slice(1, 1, 3) : x);
        return std::pair(on_host(bins), on_host(extremes));
      };
      const auto want = count(cpu_, host), got = count(gpu_, there);
      EXPECT_TRUE(same_bits(got.first, want.first)) << to_string(shape);
      EXPECT_TRUE(same_bits(got.second, want.second)) << to_string(shape);
    }
}

}  // namespace
}  // namespace quietformer
