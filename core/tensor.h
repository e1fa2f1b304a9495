// Tensor: a trivially copyable view of memory that somebody else owns.
//
// Letters used for dimensions everywhere in the project:
//   B batch   L query length   S key length   H heads   Hk key/value heads   D head dim
//   Dv value head dim   C channels (model width)   V vocabulary   T context (tokens per sequence)
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "core/check.h"
#include "core/device.h"
#include "core/dtype.h"

namespace quietformer {

inline constexpr int kMaxRank = 5;

/// Dimensions of a tensor, outermost first.
struct Shape {
  std::array<std::int64_t, kMaxRank> size{};
  int rank = 0;

  constexpr Shape() = default;
  constexpr Shape(std::initializer_list<std::int64_t> sizes) {
    QF_EXPECTS(sizes.size() <= kMaxRank);
    for (std::int64_t s : sizes) size[rank++] = s;
  }
  constexpr std::int64_t operator[](int i) const { return size[i]; }
  constexpr std::int64_t& operator[](int i) { return size[i]; }
  constexpr std::int64_t count() const {
    std::int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= size[i];
    return n;
  }
  friend constexpr bool operator==(const Shape& a, const Shape& b) {
    if (a.rank != b.rank) return false;
    for (int i = 0; i < a.rank; ++i)
      if (a.size[i] != b.size[i]) return false;
    return true;
  }
};

std::string to_string(const Shape& shape);  // "(2, 8, 128)"

/// A view: data, type, shape, strides (in elements) and device. Never allocates, frees or computes.
/// Layers and pointwise operations take contiguous tensors and check it; attention and gemm take
/// the strides their headers document. A default-constructed Tensor means "absent" (optional
/// arguments). Misuse (another type, a part that is not there) is std::logic_error.
struct Tensor {
  void* data = nullptr;
  Shape shape;
  std::array<std::int64_t, kMaxRank> stride{};
  DType dtype = DType::f32;
  Device device;

  Tensor() = default;
  /// Contiguous (row-major) view of `data`.
  Tensor(void* data, DType dtype, const Shape& shape, Device device = {});

  explicit operator bool() const { return data != nullptr; }
  std::int64_t count() const { return shape.count(); }
  std::int64_t bytes() const { return count() * size_of(dtype); }
  bool contiguous() const;

  /// The elements as T; the type must match exactly.
  template <class T>
  T* as() const {
    QF_EXPECTS(data == nullptr || dtype == dtype_of<T>());
    return static_cast<T*>(data);
  }

  /// The same contiguous memory under another shape of equal count.
  Tensor reshape(const Shape& to) const;
  /// The part [begin, begin + size) of dimension `dim`; no copy.
  Tensor slice(int dim, std::int64_t begin, std::int64_t size) const;
  /// The same memory with two dimensions exchanged; no copy.
  Tensor transpose(int a, int b) const;
};

/// Writes zeros over a contiguous host tensor.
void fill_zero(const Tensor& tensor);

}  // namespace quietformer
