// Tensor maps: what the tensor memory accelerator (TMA) of compute capability 9.0 needs to know of
// a tensor to copy boxes of it to shared memory. Host code: includes nothing of CUDA.
#pragma once

#include <cstdint>

#include "core/tensor.h"

namespace quietformer::cuda {

/// CUtensorMap of the driver, passed to kernels by value as a __grid_constant__.
struct alignas(128) TensorMap {
  unsigned char data[128];
};

/// A map of rows of 16-bit elements, x (B, heads, length, features), any strides of whole 16 bytes
/// and unit inner stride, that copies boxes of `box_rows` rows (at most 256) by 64 features: 128
/// bytes a row, swizzled by 128 bytes (chunk c of 16 bytes of row r lies at c ^ r % 8). What lies
/// outside of the tensor arrives as zeros. RunError when the driver refuses.
TensorMap tensor_map(const void* x, const std::int64_t (&shape)[4], const std::int64_t (&stride)[3],
                     int box_rows, Device device);

}  // namespace quietformer::cuda
