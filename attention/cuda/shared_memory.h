// How much shared memory a block may take. Host code: includes nothing of CUDA.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/cuda/memory.h"

namespace quietformer::cuda {

/// Bytes that a block may ask for: GPUs of one generation differ (CUDA C++ Programming Guide,
/// "Technical Specifications per Compute Capability").
inline int shared_memory_of_block(const Gpu& gpu) {
  const int version = gpu.major * 10 + gpu.minor;
  if (version == 80 || version == 87) return 163 * 1024;
  return version >= 90 && version < 120 ? 227 * 1024 : 99 * 1024;
}

/// Empty when a block on `device` may take this many bytes, else why not: `of` names the kernels,
/// which are those for heads of `head_dim` features.
inline std::string too_little_shared_memory(Device device, int bytes, std::int64_t head_dim,
                                            std::string_view of) {
  // Every call of attention asks this; the runtime takes long to answer.
  static const std::vector<Gpu> all = gpus();
  for (const Gpu& gpu : all)
    if (gpu.index == device.index && bytes > shared_memory_of_block(gpu))
      return "head dim " + std::to_string(head_dim) + ": a block of its " + std::string(of) +
             " takes " + std::to_string(bytes) + " bytes of shared memory, " + gpu.name + " has " +
             std::to_string(shared_memory_of_block(gpu));
  return {};
}

}  // namespace quietformer::cuda
