#include "core/cuda/memory.h"

#include "core/cuda/launch.h"

namespace quietformer::cuda {
namespace {

std::string device_name(Device device) {
  return "cuda:" + std::to_string(device.index);
}

/// "12.4", as the runtime counts versions.
std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

}  // namespace

void check_cuda(cudaError_t status, std::string_view what, Device device) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // an error that is not sticky must not be met again by the next check
  throw RunError(std::string(what) + " on " + device_name(device) + ": " +
                 cudaGetErrorString(status));
}

CurrentDevice::CurrentDevice(Device device) {
  QF_EXPECTS(device.type == DeviceType::cuda);
  check_cuda(cudaGetDevice(&previous_), "asking for the current device", device);
  if (previous_ != device.index)
    check_cuda(cudaSetDevice(device.index), "choosing the device", device);
}

CurrentDevice::~CurrentDevice() {
  cudaSetDevice(previous_);
}

std::vector<Gpu> gpus() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();
    return {};
  }
  std::vector<Gpu> found;
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties{};
    if (cudaGetDeviceProperties(&properties, i) != cudaSuccess) {
      cudaGetLastError();
      continue;
    }
    Gpu gpu;
    gpu.index = static_cast<std::int16_t>(i);
    gpu.name = properties.name;
    gpu.major = properties.major;
    gpu.minor = properties.minor;
    gpu.multiprocessors = properties.multiProcessorCount;
    gpu.memory_bytes = static_cast<std::int64_t>(properties.totalGlobalMem);
    found.push_back(std::move(gpu));
  }
  return found;
}

std::string unavailable() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess && count > 0) return {};
  cudaGetLastError();
  int driver = 0;
  if (cudaDriverGetVersion(&driver) == cudaSuccess && driver == 0)
    return "no GPU: no NVIDIA driver is installed";
  if (status == cudaErrorInsufficientDriver)
    return "no GPU: the NVIDIA driver supports CUDA " + version_text(driver) +
           ", this build needs CUDA " + version_text(CUDART_VERSION);
  return std::string("no GPU: ") +
         (status == cudaSuccess ? "no CUDA device is visible" : cudaGetErrorString(status));
}

void* allocate(std::int64_t bytes, Device device) {
  QF_EXPECTS(bytes >= 0);
  if (bytes == 0) return nullptr;
  const CurrentDevice current(device);
  const std::string what = "allocating " + std::to_string(bytes) + " bytes";
  void* data = nullptr;
  check_cuda(cudaMalloc(&data, static_cast<std::size_t>(bytes)), what, device);
  cudaError_t cleared = cudaMemset(data, 0, static_cast<std::size_t>(bytes));
  // cudaMemset may return early, and streams of our own do not wait for the default one.
  if (cleared == cudaSuccess) cleared = cudaStreamSynchronize(nullptr);
  if (cleared != cudaSuccess) cudaFree(data);
  check_cuda(cleared, what, device);
  return data;
}

void release(void* data, Device device) noexcept {
  if (data == nullptr) return;
  // No errors from here: this runs in destructors, also while the process ends or after a failure
  // that made the device unusable, where the driver frees everything anyway.
  int previous = 0;
  if (cudaGetDevice(&previous) != cudaSuccess || cudaSetDevice(device.index) != cudaSuccess) return;
  cudaFree(data);
  cudaSetDevice(previous);
}

void copy(const Tensor& to, const Tensor& from) {
  QF_EXPECTS(to.shape == from.shape && to.dtype == from.dtype);
  QF_EXPECTS(to.contiguous() && from.contiguous());
  if (to.bytes() == 0) return;
  const Device gpu = to.device.type == DeviceType::cuda ? to.device : from.device;
  QF_EXPECTS(gpu.type == DeviceType::cuda);
  const CurrentDevice current(gpu);
  const std::string what = "copying " + std::to_string(to.bytes()) + " bytes";
  check_cuda(cudaDeviceSynchronize(), what, gpu);
  // cudaMemcpyDefault reads the direction off the addresses (unified addressing, every 64-bit GPU).
  check_cuda(
      cudaMemcpy(to.data, from.data, static_cast<std::size_t>(to.bytes()), cudaMemcpyDefault), what,
      gpu);
  check_cuda(cudaDeviceSynchronize(), what, gpu);  // a copy between devices may return early
}

void copy_async(const Context& ctx, const Tensor& to, const Tensor& from) {
  QF_EXPECTS(to.shape == from.shape && to.dtype == from.dtype);
  QF_EXPECTS(to.contiguous() && from.contiguous());
  QF_EXPECTS(to.device == ctx.device || from.device == ctx.device);
  if (to.bytes() == 0) return;
  const CurrentDevice current(ctx.device);
  check_cuda(cudaMemcpyAsync(to.data, from.data, static_cast<std::size_t>(to.bytes()),
                             cudaMemcpyDefault, ctx.stream),
             "copying " + std::to_string(to.bytes()) + " bytes", ctx.device);
}

void synchronize(Device device) {
  const CurrentDevice current(device);
  check_cuda(cudaDeviceSynchronize(), "waiting", device);
}

void synchronize(const Context& ctx) {
  const CurrentDevice current(ctx.device);
  check_cuda(cudaStreamSynchronize(ctx.stream), "waiting", ctx.device);
}

}  // namespace quietformer::cuda
