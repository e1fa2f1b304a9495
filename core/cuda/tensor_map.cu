#include "core/cuda/tensor_map.h"

#include <cuda.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "core/check.h"
#include "core/cuda/launch.h"

namespace quietformer::cuda {
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

/// The driver's function, found through the runtime: programs do not link the driver.
Encode encode_function(Device device) {
  static const Encode function = [&] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found;
    check_cuda(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000,
                                                cudaEnableDefault, &found),
               "looking for the driver's tensor maps", device);
    if (found != cudaDriverEntryPointSuccess || entry == nullptr)
      throw RunError("the driver has no cuTensorMapEncodeTiled (CUDA 12.0)");
    return reinterpret_cast<Encode>(entry);
  }();
  return function;
}

}  // namespace

TensorMap tensor_map(const void* x, const std::int64_t (&shape)[4], const std::int64_t (&stride)[3],
                     int box_rows, Device device) {
  static_assert(sizeof(CUtensorMap) == sizeof(TensorMap) &&
                alignof(CUtensorMap) <= alignof(TensorMap));
  // The driver's order: the innermost dimension first, strides in bytes from the second on.
  cuuint64_t sizes[4], strides[3];
  for (int i = 0; i < 4; ++i) sizes[i] = static_cast<cuuint64_t>(shape[3 - i]);
  // Where there is one, its stride means nothing, and may be what no map takes.
  for (int i = 0; i < 3; ++i)
    strides[i] = shape[2 - i] == 1 ? 16 : static_cast<cuuint64_t>(stride[2 - i]) * 2;
  const cuuint32_t box[4] = {64, static_cast<cuuint32_t>(box_rows), 1, 1}, steps[4] = {1, 1, 1, 1};
  CUtensorMap map;
  const CUresult result = encode_function(device)(
      &map, CU_TENSOR_MAP_DATA_TYPE_UINT16, 4, const_cast<void*>(x), sizes, strides, box, steps,
      CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS)
    throw RunError("the driver refuses a tensor map: error " + std::to_string(result));
  TensorMap out;
  std::memcpy(out.data, &map, sizeof(map));
  return out;
}

}  // namespace quietformer::cuda
