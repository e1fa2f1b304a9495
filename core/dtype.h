// Element types and the one place where a run-time type becomes a template argument.
#pragma once

#include <cstdint>
#include <string_view>
#include <type_traits>

#include "core/check.h"

#if defined(__CUDACC__)
#define QF_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define QF_HOST_DEVICE inline
#endif

namespace quietformer {

enum class DType : std::uint8_t { f64, f32, bf16, f16, i64, i32, u16, u8 };

/// Bytes of an element.
constexpr std::int64_t size_of(DType dtype) {
  switch (dtype) {
    case DType::f64:
    case DType::i64:
      return 8;
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::bf16:
    case DType::f16:
    case DType::u16:
      return 2;
    case DType::u8:
      return 1;
  }
  return 0;
}

constexpr std::string_view name_of(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return "f64";
    case DType::f32:
      return "f32";
    case DType::bf16:
      return "bf16";
    case DType::f16:
      return "f16";
    case DType::i64:
      return "i64";
    case DType::i32:
      return "i32";
    case DType::u16:
      return "u16";
    case DType::u8:
      return "u8";
  }
  return "?";
}

/// The type of sums, statistics and parameters that go with values stored as `storage`.
constexpr DType accumulation_dtype(DType storage) {
  return storage == DType::bf16 || storage == DType::f16 ? DType::f32 : storage;
}

/// The tag of a C++ type.
template <class T>
constexpr DType dtype_of() {
  using U = std::remove_cv_t<T>;
  if constexpr (std::is_same_v<U, double>) return DType::f64;
  if constexpr (std::is_same_v<U, float>) return DType::f32;
  if constexpr (std::is_same_v<U, std::int64_t>) return DType::i64;
  if constexpr (std::is_same_v<U, std::int32_t>) return DType::i32;
  if constexpr (std::is_same_v<U, std::uint16_t>) return DType::u16;
  if constexpr (std::is_same_v<U, std::uint8_t>) return DType::u8;
}

/// Calls `body.template operator()<float>()` or `<double>`: the types the CPU computes in.
/// Every operation dispatches once, at its entry. Other types are std::logic_error.
template <class Body>
decltype(auto) dispatch_floating(DType dtype, Body&& body) {
  if (dtype == DType::f32) return body.template operator()<float>();
  QF_EXPECTS(dtype == DType::f64);
  return body.template operator()<double>();
}

}  // namespace quietformer
