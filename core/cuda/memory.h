// GPUs of this machine and memory on them. Host code: includes nothing of CUDA and exists in every
// build. Without CUDA (absent.cpp) gpus() is empty, unavailable() says why and everything else
// throws RunError "built without CUDA (QUIETFORMER_CUDA=OFF)".
//
// Failures of the CUDA runtime are RunErrors in one line that name the operation and the device.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/context.h"
#include "core/tensor.h"

namespace quietformer::cuda {

struct Gpu {
  std::int16_t index = 0;
  std::string name;          // "NVIDIA H200"
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
  std::int64_t memory_bytes = 0;  // in total
};

/// The GPUs this process may use, in the runtime's order; empty where there is none. Never throws.
std::vector<Gpu> gpus();

/// Why gpus() is empty, for messages and skipped tests; empty when there is a GPU.
std::string unavailable();

/// Device memory from plain cudaMalloc, zero-filled, aligned to 256 bytes; null for 0 bytes.
void* allocate(std::int64_t bytes, Device device);
void release(void* data, Device device) noexcept;

/// Copies the elements of `from` to `to` and returns when they have arrived. Equal shapes and
/// types, both contiguous, no overlap; any two of host and GPUs. Waits for earlier work of the GPU.
void copy(const Tensor& to, const Tensor& from);

/// Writes `value`, converted to the element type, to every element of a contiguous tensor on a GPU.
/// Runs in the order of the device's work and may return before it is done; synchronize() waits.
void fill(const Context& ctx, const Tensor& out, double value);

/// Waits for everything the device was asked to do; throws what failed there.
void synchronize(Device device);

}  // namespace quietformer::cuda
