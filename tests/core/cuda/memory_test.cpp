// Memory and kernels on a GPU. Every test skips with the reason where there is none.
#include "core/cuda/memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "core/buffer.h"
#include "core/half.h"

namespace quietformer {
namespace {

constexpr Device kGpu{DeviceType::cuda, 0};

class Gpu : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const std::string reason = cuda::unavailable(); !reason.empty()) GTEST_SKIP() << reason;
    ctx_.device = kGpu;
  }
  Context ctx_;
};

/// The bytes of a GPU tensor, through a host copy.
std::vector<unsigned char> bytes_of(const Tensor& tensor) {
  const OwnedTensor host(tensor.dtype, tensor.shape);
  cuda::copy(host, tensor);
  const auto* begin = static_cast<const unsigned char*>(host.view().data);
  return {begin, begin + tensor.bytes()};
}

TEST_F(Gpu, IsDescribed) {
  const std::vector<cuda::Gpu> gpus = cuda::gpus();
  ASSERT_FALSE(gpus.empty());
  for (const cuda::Gpu& gpu : gpus) {
    EXPECT_FALSE(gpu.name.empty());
    EXPECT_GE(gpu.major, 5);
    EXPECT_GT(gpu.multiprocessors, 0);
    EXPECT_GT(gpu.memory_bytes, std::int64_t{1} << 28);
    std::printf("cuda:%d %s, compute capability %d.%d, %d multiprocessors, %.1f GiB\n", gpu.index,
                gpu.name.c_str(), gpu.major, gpu.minor, gpu.multiprocessors,
                double(gpu.memory_bytes) / (1 << 30));
  }
}

// CMakeLists.txt runs this with the driver of old_driver.cpp.
TEST(OldDriver, IsNamedInOneLine) {
  const char* const version = std::getenv("QUIETFORMER_OLD_DRIVER");
  if (version == nullptr) GTEST_SKIP() << "test_core_cuda_old_driver runs it";
  EXPECT_TRUE(cuda::gpus().empty());
  const std::string reason = cuda::unavailable(),
                    begin = "no GPU: the NVIDIA driver supports CUDA " + std::string(version) +
                            ", this build needs CUDA ";
  EXPECT_EQ(reason.substr(0, begin.size()), begin);
  EXPECT_EQ(reason.find('\n'), std::string::npos);
}

TEST_F(Gpu, MemoryStartsAsZerosAlsoWhenReused) {
  const std::int64_t count = 100003;
  for (int round = 0; round < 3; ++round) {
    const OwnedTensor tensor(DType::u8, {count}, kGpu);
    for (const unsigned char byte : bytes_of(tensor)) ASSERT_EQ(byte, 0);
    cuda::fill(ctx_, tensor, 255);
  }
}

TEST_F(Gpu, CopiesComeBackUnchanged) {
  const Shape shape{3, 5, 7};
  const OwnedTensor host(DType::f64, shape), back(DType::f64, shape);
  for (std::int64_t i = 0; i < shape.count(); ++i) host.as<double>()[i] = 1.0 / (i + 1);
  const OwnedTensor first(DType::f64, shape, kGpu), second(DType::f64, shape, kGpu);
  cuda::copy(first, host);
  cuda::copy(second, first);
  cuda::copy(back, second);
  EXPECT_EQ(std::memcmp(back.view().data, host.view().data, host.view().bytes()), 0);
}

// Fills the middle of a larger tensor: the elements around it are sentinels that must survive.
template <class Element>
void expect_filled(const Context& ctx, DType dtype, double value, Element expected,
                   std::int64_t count) {
  const std::int64_t margin = 64;
  const OwnedTensor whole(dtype, {count + 2 * margin}, kGpu);
  cuda::fill(ctx, whole.view().slice(0, margin, count), value);
  cuda::synchronize(kGpu);
  const std::vector<unsigned char> bytes = bytes_of(whole);
  ASSERT_EQ(bytes.size(), sizeof(Element) * static_cast<std::size_t>(count + 2 * margin));
  for (std::int64_t i = 0; i < count + 2 * margin; ++i) {
    Element element;
    std::memcpy(&element, bytes.data() + i * sizeof(Element), sizeof(Element));
    const bool inside = i >= margin && i < margin + count;
    ASSERT_EQ(element, inside ? expected : Element(0)) << name_of(dtype) << " element " << i;
  }
}

TEST_F(Gpu, FillWritesEveryElementAndNoOther) {
  for (const std::int64_t count : {1, 31, 256, 257, 4096 * 256 + 1}) {
    expect_filled<double>(ctx_, DType::f64, 0.1, 0.1, count);
    expect_filled<float>(ctx_, DType::f32, 0.1, 0.1f, count);
    expect_filled<std::uint16_t>(ctx_, DType::bf16, 1.5, 0x3fc0, count);
    expect_filled<std::uint16_t>(ctx_, DType::f16, 1.5, 0x3e00, count);
    expect_filled<std::int64_t>(ctx_, DType::i64, -3, -3, count);
    expect_filled<std::int32_t>(ctx_, DType::i32, -3, -3, count);
    expect_filled<std::uint16_t>(ctx_, DType::u16, 513, 513, count);
    expect_filled<std::uint8_t>(ctx_, DType::u8, 200, 200, count);
  }
  cuda::fill(ctx_, OwnedTensor(DType::f32, {0}, kGpu), 1);  // nothing to do, and no launch
}

TEST_F(Gpu, StreamsCopyInOrderAndGraphsRepeatThem) {
  const cuda::Stream stream(kGpu);
  ctx_.stream = stream.get();
  const std::int64_t count = 1 << 20;
  const OwnedTensor there(DType::f32, {count}, kGpu), sum(DType::f32, {count}, kGpu);
  const cuda::PinnedTensor in(DType::f32, {count}, kGpu), out(DType::f32, {count}, kGpu);
  float* const values = in.view().as<float>();
  for (std::int64_t i = 0; i < count; ++i) values[i] = float(i);
  cuda::Event done(kGpu);
  done.wait();  // nothing recorded yet
  const auto work = [&] {
    cuda::copy_async(ctx_, there, in);
    cuda::fill(ctx_, there.view().slice(0, 0, 1), -1);
    cuda::copy_async(ctx_, out, there);
  };
  const auto expect = [&](float last) {
    done.record(ctx_);
    done.wait();
    EXPECT_EQ(out.view().as<float>()[0], -1.0f);
    EXPECT_EQ(out.view().as<float>()[count - 1], last);
  };
  work();
  expect(float(count - 1));
  const cuda::Graph graph(ctx_, work);
  values[count - 1] = 7;
  cuda::synchronize(ctx_);
  EXPECT_EQ(out.view().as<float>()[count - 1], float(count - 1));  // recorded, not done
  graph.launch(ctx_);
  expect(7);
  const cuda::Stream second(kGpu);
  Context other = ctx_;
  other.stream = second.get();
  values[count - 1] = 8;
  graph.launch(ctx_);
  done.record(ctx_);
  done.hold(other);
  cuda::copy_async(other, sum, there);
  cuda::synchronize(other);
  OwnedTensor host(DType::f32, {count});
  cuda::copy(host, sum);
  EXPECT_EQ(host.as<float>()[count - 1], 8.0f);
}

TEST_F(Gpu, ConvertRoundsToTheNearestEven) {
  const std::vector<float> values{1.0f, 1.00390625f, 1.01171875f, 1e-3f, -65504.0f, 3e38f, -0.0f};
  const auto count = static_cast<std::int64_t>(values.size());
  OwnedTensor host(DType::f32, {count});
  std::copy(values.begin(), values.end(), host.as<float>());
  const OwnedTensor single(DType::f32, {count}, kGpu), half(DType::bf16, {count}, kGpu),
      back(DType::f64, {count}, kGpu), result(DType::f64, {count});
  cuda::copy(single, host);
  cuda::convert(ctx_, half, single);
  cuda::convert(ctx_, back, half);
  cuda::copy(result, back);
  for (std::int64_t i = 0; i < count; ++i)
    EXPECT_EQ(result.as<double>()[i], double(bf16_to_float(float_to_bf16(values[i])))) << i;
}

TEST_F(Gpu, ArenaLivesOnTheDevice) {
  Arena arena("test", kGpu);
  const Slot a = arena.declare("a", DType::f32, {1000}), b = arena.declare("b", DType::f64, {10});
  arena.commit();
  EXPECT_EQ(a.get().device, kGpu);
  cuda::fill(ctx_, a, 2);
  const OwnedTensor host(DType::f32, {1000});
  cuda::copy(host, a);
  EXPECT_EQ(host.as<float>()[999], 2.0f);
  for (const unsigned char byte : bytes_of(b)) ASSERT_EQ(byte, 0);
}

TEST_F(Gpu, TooMuchMemoryIsARunErrorThatLeavesTheDeviceUsable) {
  try {
    const Buffer buffer(std::int64_t{1} << 50, kGpu);
    FAIL() << "a pebibyte was allocated";
  } catch (const RunError& error) {
    EXPECT_EQ(std::string(error.what()),
              "allocating 1125899906842624 bytes on cuda:0: out of memory");
  }
  expect_filled<float>(ctx_, DType::f32, 3, 3.0f, 100);
}

}  // namespace
}  // namespace quietformer
