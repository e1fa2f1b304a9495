// How kernels are started and the runtime's results are checked. For .cu and .cuh files only: the
// one header that includes the CUDA runtime.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <string_view>

#include "core/context.h"
#include "core/tensor.h"

namespace quietformer::cuda {

/// Throws RunError "WHAT on cuda:INDEX: the runtime's words" unless `status` is success.
void check_cuda(cudaError_t status, std::string_view what, Device device);

/// Makes a device current for the calling thread while it lives.
class CurrentDevice {
 public:
  explicit CurrentDevice(Device device);
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;
  ~CurrentDevice();

 private:
  int previous_ = 0;
};

/// std::logic_error unless every tensor that is present lives on ctx.device.
template <class... Tensors>
void expect_on_device(const Context& ctx, const Tensors&... tensors) {
  QF_EXPECTS((... && (!tensors || tensors.device == ctx.device)));
}

struct LaunchShape {
  dim3 grid;
  dim3 block;
  std::size_t shared_bytes = 0;
};

/// Enough blocks of `block` threads to give each of `count` elements a thread, at most `most`: the
/// kernel strides over the rest. At least one block.
inline LaunchShape shape_for(std::int64_t count, unsigned block = 256, unsigned most = 4096) {
  const std::int64_t blocks = (count + block - 1) / block;
  return {dim3(static_cast<unsigned>(std::clamp<std::int64_t>(blocks, 1, most))), dim3(block)};
}

/// In a kernel: the first element of this thread and the distance to its next one.
__device__ inline std::int64_t first_index() {
  return std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
}
__device__ inline std::int64_t index_step() {
  return std::int64_t{blockDim.x} * gridDim.x;
}

/// Starts `kernel` on ctx.stream of ctx.device, which must be current. `name` appears in errors.
/// Bad launch parameters are reported here; what goes wrong inside the kernel, at the next
/// synchronisation (with CUDA_LAUNCH_BLOCKING=1 in the environment, here).
template <class... Parameters, class... Arguments>
void launch(const Context& ctx, std::string_view name, const LaunchShape& shape,
            void (*kernel)(Parameters...), Arguments&&... arguments) {
  kernel<<<shape.grid, shape.block, shape.shared_bytes, ctx.stream>>>(
      static_cast<Parameters>(arguments)...);
  check_cuda(cudaGetLastError(), name, ctx.device);
}

}  // namespace quietformer::cuda
