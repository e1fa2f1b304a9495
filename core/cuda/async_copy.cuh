// Copies from device memory to shared memory that threads do not wait for (sm_80 and newer). A
// thread sees what it copied itself after wait_for_copies(); others after a barrier besides.
#pragma once

#include "core/cuda/launch.h"

namespace quietformer::cuda {

/// Both addresses multiples of 16.
__device__ inline void copy_16_bytes(void* shared, const void* from) {
  const auto at = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(from) : "memory");
}

/// Ends a group of copies.
__device__ inline void end_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

/// Waits for all groups but the last kLater.
template <int kLater>
__device__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLater) : "memory");
}

/// Bytes of shared memory that a block may have on the device, which must be current.
inline std::int64_t shared_limit(Device device) {
  int bytes = 0;
  check_cuda(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device.index),
             "asking for the size of shared memory", device);
  return bytes;
}

/// Lets a kernel have that much.
template <class Kernel>
void allow_shared(Kernel* kernel, std::int64_t bytes, std::string_view name, Device device) {
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(bytes)),
             name, device);
}

}  // namespace quietformer::cuda
