// Tensors for tests: made from a seed, guarded against overruns, compared with a stated tolerance.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>
#include <vector>

#include "core/buffer.h"
#include "core/cuda/memory.h"
#include "core/half.h"
#include "core/random.h"

namespace quietformer::test {

/// Element offset of a row-major index into any strided view. For every number of every test: plain
/// arrays, since sanitizers' builds inline nothing here.
inline std::int64_t offset_of(const Tensor& tensor, std::int64_t flat) {
  const std::int64_t *const size = tensor.shape.size.data(), *const stride = tensor.stride.data();
  std::int64_t offset = 0;
  for (int i = tensor.shape.rank - 1; i > 0; --i) {
    offset += flat % size[i] * stride[i];
    flat /= size[i];
  }
  return offset + flat * stride[0];
}

inline double get(const Tensor& tensor, std::int64_t flat) {
  const std::int64_t at = offset_of(tensor, flat);
  switch (tensor.dtype) {
    case DType::f64:
      return tensor.as<double>()[at];
    case DType::f32:
      return double(tensor.as<float>()[at]);
    case DType::bf16:
      return double(bf16_to_float(static_cast<const std::uint16_t*>(tensor.data)[at]));
    case DType::f16:
      return double(f16_to_float(static_cast<const std::uint16_t*>(tensor.data)[at]));
    case DType::u8:
      return tensor.as<std::uint8_t>()[at];
    case DType::i32:
      return tensor.as<std::int32_t>()[at];
    case DType::i64:
      return double(tensor.as<std::int64_t>()[at]);
    default:
      throw std::logic_error("type not supported by test::get");
  }
}

inline void set(const Tensor& tensor, std::int64_t flat, double value) {
  const std::int64_t at = offset_of(tensor, flat);
  switch (tensor.dtype) {
    case DType::f64:
      tensor.as<double>()[at] = value;
      return;
    case DType::f32:
      tensor.as<float>()[at] = float(value);
      return;
    case DType::bf16:
      static_cast<std::uint16_t*>(tensor.data)[at] = float_to_bf16(float(value));
      return;
    case DType::f16:
      static_cast<std::uint16_t*>(tensor.data)[at] = float_to_f16(float(value));
      return;
    case DType::u8:
      tensor.as<std::uint8_t>()[at] = std::uint8_t(value);
      return;
    case DType::i32:
      tensor.as<std::int32_t>()[at] = std::int32_t(value);
      return;
    default:
      throw std::logic_error("type not supported by test::set");
  }
}

inline void fill(const Tensor& tensor, double value) {
  if (tensor.dtype == DType::u8 && tensor.contiguous()) {  // guarded memory: hundreds of MB
    std::memset(tensor.data, std::uint8_t(value), std::size_t(tensor.bytes()));
    return;
  }
  for (std::int64_t i = 0; i < tensor.count(); ++i) set(tensor, i, value);
}

/// N(mean, std^2), a function of (seed, logical index) alone: same values for f32 (rounded) and f64
/// and for any strides.
inline void fill_normal(const Tensor& tensor, std::uint32_t seed, double std = 1, double mean = 0) {
  const RandomKey key = stream_key(seed, RandomPurpose::initialisation, 0, 0);
  for (std::int64_t i = 0; i < tensor.count(); ++i) {
    const Philox4 bits = philox(key, std::uint32_t(i), std::uint32_t(i >> 32), 0, 0);
    const double u = (bits.word[0] + 0.5) / 4294967296.0, w = bits.word[1] / 4294967296.0;
    const double normal = std::sqrt(-2 * std::log(u)) * std::cos(2 * std::numbers::pi * w);
    set(tensor, i, double(float(mean + std * normal)));
  }
}

inline OwnedTensor normal(DType dtype, const Shape& shape, std::uint32_t seed, double std = 1,
                          double mean = 0) {
  OwnedTensor tensor(dtype, shape);
  fill_normal(tensor, seed, std, mean);
  return tensor;
}

/// A contiguous tensor from literal values.
inline OwnedTensor from_values(DType dtype, const Shape& shape, const std::vector<double>& values) {
  OwnedTensor tensor(dtype, shape);
  QF_EXPECTS(std::int64_t(values.size()) == shape.count());
  for (std::int64_t i = 0; i < shape.count(); ++i) set(tensor, i, values[std::size_t(i)]);
  return tensor;
}

/// A contiguous copy, in another type if wanted.
inline OwnedTensor copy_as(const Tensor& tensor, DType dtype) {
  OwnedTensor copy(dtype, tensor.shape);
  if (dtype == tensor.dtype && tensor.contiguous())
    std::memcpy(copy.view().data, tensor.data, std::size_t(tensor.bytes()));
  else
    for (std::int64_t i = 0; i < tensor.count(); ++i) set(copy, i, get(tensor, i));
  return copy;
}
inline OwnedTensor copy_of(const Tensor& tensor) {
  return copy_as(tensor, tensor.dtype);
}

inline double max_abs(const Tensor& tensor) {
  double high = 0;
  for (std::int64_t i = 0; i < tensor.count(); ++i) {
    const double value = std::abs(get(tensor, i));
    if (std::isnan(value)) return value;
    if (std::isfinite(value)) high = std::max(high, value);
  }
  return high;
}

/// A copy on `device` of a contiguous tensor on any device.
inline OwnedTensor copy_to(Device device, const Tensor& tensor) {
  if (device.type == DeviceType::cpu && tensor.device.type == DeviceType::cpu)
    return copy_of(tensor);
  OwnedTensor copy(tensor.dtype, tensor.shape, device);
  cuda::copy(copy, tensor);
  return copy;
}

/// Writes `value` over a contiguous tensor on any device.
inline void fill_any(const Tensor& tensor, double value) {
  if (tensor.device.type == DeviceType::cpu) return fill(tensor, value);
  Context ctx;
  ctx.device = tensor.device;
  cuda::fill(ctx, tensor, value);
}

/// |actual - expected| <= tolerance * max|expected|, per tensor; infinities must be equal.
inline testing::AssertionResult close(const Tensor& actual, const Tensor& expected,
                                      double tolerance) {
  if (!(actual.shape == expected.shape))
    return testing::AssertionFailure()
           << to_string(actual.shape) << " against " << to_string(expected.shape);
  const double limit = tolerance * max_abs(expected);
  for (std::int64_t i = 0; i < actual.count(); ++i) {
    const double a = get(actual, i), e = get(expected, i);
    if (a == e || std::abs(a - e) <= limit) continue;
    return testing::AssertionFailure() << "element " << i << " of " << to_string(actual.shape)
                                       << ": " << a << ", expected " << e << " +- " << limit;
  }
  return testing::AssertionSuccess();
}

/// Bitwise equality; -0 and 0 differ.
inline testing::AssertionResult same_bits(const Tensor& a, const Tensor& b) {
  if (!(a.shape == b.shape) || a.dtype != b.dtype)
    return testing::AssertionFailure() << to_string(a.shape) << " against " << to_string(b.shape);
  const auto size = std::size_t(size_of(a.dtype));
  for (std::int64_t i = 0; i < a.count(); ++i)
    if (std::memcmp(static_cast<const char*>(a.data) + offset_of(a, i) * std::int64_t(size),
                    static_cast<const char*>(b.data) + offset_of(b, i) * std::int64_t(size),
                    size) != 0)
      return testing::AssertionFailure() << "element " << i << " of " << to_string(a.shape) << ": "
                                         << get(a, i) << " against " << get(b, i);
  return testing::AssertionSuccess();
}

/// A tensor on any device whose memory starts as a pattern (so that "must be overwritten" is
/// tested) and is followed and preceded by guard bytes.
class GuardedTensor {
 public:
  GuardedTensor() = default;
  GuardedTensor(DType dtype, const Shape& shape, Device device = {})
      : bytes_(shape.count() * size_of(dtype)),
        whole_(DType::u8, {bytes_ + 2 * kGuard}, device),
        view_(whole_.as<std::uint8_t>() + kGuard, dtype, shape, device) {
    fill_any(whole_, kPattern);
  }
  operator const Tensor&() const { return view_; }
  const Tensor& view() const { return view_; }

  bool intact() const {
    if (!whole_.view()) return true;
    const OwnedTensor host = copy_to({}, whole_);
    const auto* begin = host.as<std::uint8_t>();
    const auto is_pattern = [](std::uint8_t byte) { return byte == kPattern; };
    return std::all_of(begin, begin + kGuard, is_pattern) &&
           std::all_of(begin + kGuard + bytes_, begin + 2 * kGuard + bytes_, is_pattern);
  }

 private:
  static constexpr std::int64_t kGuard = 256;
  static constexpr std::uint8_t kPattern = 0xA5;
  std::int64_t bytes_ = 0;
  OwnedTensor whole_;
  Tensor view_;
};

}  // namespace quietformer::test
