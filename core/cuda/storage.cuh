// The types that a GPU stores floating-point values in, and the types it computes in: f32 and f64
// in themselves, bf16 and f16 in f32. For kernels.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "core/cuda/launch.h"

namespace quietformer {

// So that Tensor::as<T>() knows the two types that exist on GPUs alone.
template <>
constexpr DType dtype_of<__nv_bfloat16>() {
  return DType::bf16;
}
template <>
constexpr DType dtype_of<const __nv_bfloat16>() {
  return DType::bf16;
}
template <>
constexpr DType dtype_of<__half>() {
  return DType::f16;
}
template <>
constexpr DType dtype_of<const __half>() {
  return DType::f16;
}

namespace cuda {

template <class T>
struct ComputeOf {
  using type = T;
};
template <>
struct ComputeOf<__nv_bfloat16> {
  using type = float;
};
template <>
struct ComputeOf<__half> {
  using type = float;
};
/// What values stored as T are computed in: accumulation_dtype() as a type.
template <class T>
using Compute = typename ComputeOf<T>::type;

template <class T>
inline constexpr bool kSixteenBit = sizeof(T) == 2;

/// Exact.
__device__ inline float widen(float x) {
  return x;
}
__device__ inline double widen(double x) {
  return x;
}
__device__ inline float widen(__nv_bfloat16 x) {
  return __bfloat162float(x);
}
__device__ inline float widen(__half x) {
  return __half2float(x);
}

/// To the nearest, ties to even.
template <class T, class From>
__device__ T narrow(From x) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    if constexpr (std::is_same_v<From, double>)
      return __double2bfloat16(x);
    else
      return __float2bfloat16_rn(x);
  } else if constexpr (std::is_same_v<T, __half>) {
    if constexpr (std::is_same_v<From, double>)
      return __double2half(x);
    else
      return __float2half_rn(x);
  } else {
    return static_cast<T>(x);
  }
}

/// Neighbouring elements that one access of 16 bytes moves.
template <class T>
struct alignas(16) Pack {
  static constexpr int kSize = 16 / sizeof(T);
  T value[kSize];
};

/// Whether all these start where a Pack may.
template <class... T>
bool starts_pack(const T*... data) {
  return ((reinterpret_cast<std::uintptr_t>(data) % 16 == 0) && ...);
}

/// Neighbouring elements in the type they are computed in.
template <class T, int kSize = Pack<T>::kSize>
struct Wide {
  Compute<T> value[kSize];
};

template <class T>
__device__ Wide<T> load_pack(const T* at) {
  const Pack<T> pack = *reinterpret_cast<const Pack<T>*>(at);
  Wide<T> wide;
#pragma unroll
  for (int j = 0; j < Pack<T>::kSize; ++j) wide.value[j] = widen(pack.value[j]);
  return wide;
}

template <class T>
__device__ void store_pack(T* at, const Wide<T>& wide) {
  Pack<T> pack;
#pragma unroll
  for (int j = 0; j < Pack<T>::kSize; ++j) pack.value[j] = narrow<T>(wide.value[j]);
  *reinterpret_cast<Pack<T>*>(at) = pack;
}

/// Calls `body.template operator()<T>()` for the storage type: dispatch_floating() on GPUs.
template <class Body>
decltype(auto) dispatch_storage(DType dtype, Body&& body) {
  if (dtype == DType::bf16) return body.template operator()<__nv_bfloat16>();
  if (dtype == DType::f16) return body.template operator()<__half>();
  return dispatch_floating(dtype, body);
}

}  // namespace cuda
}  // namespace quietformer
