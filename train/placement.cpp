#include "train/placement.h"

#include <fmt/format.h>

#include <charconv>
#include <optional>

#include "core/check.h"
#include "core/cuda/memory.h"
#include "core/parallel.h"
#include "train/cuda/operations.h"

namespace quietformer {
namespace {

constexpr std::string_view kGpu = "cuda";

/// N of cuda:N, 0 of cuda.
std::optional<int> gpu_index(std::string_view name) {
  if (name == kGpu) return 0;
  if (!name.starts_with("cuda:")) return std::nullopt;
  name.remove_prefix(5);
  int index = -1;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), index);
  if (error != std::errc() || end != name.data() + name.size() || index < 0) return std::nullopt;
  return index;
}

bool is_16_bit(std::string_view dtype) {
  return dtype == "bf16" || dtype == "fp16";
}

DType dtype_named(std::string_view name, const cuda::Gpu* gpu) {
  if (name == "fp64") return DType::f64;
  if (name == "bf16") return DType::bf16;
  if (name == "fp16") return DType::f16;
  return name == "auto" && gpu != nullptr && gpu->major >= 8 ? DType::bf16 : DType::f32;
}

Placement on_gpu(const cuda::Gpu& gpu, const std::string& dtype) {
  Placement placement;
  placement.device = {DeviceType::cuda, gpu.index};
  placement.dtype = dtype_named(dtype, &gpu);
  placement.text =
      fmt::format("cuda:{} ({}), {}", gpu.index, gpu.name, dtype_name(placement.dtype));
  return placement;
}

/// `why`: what made auto come here, or empty.
Placement on_cpu(const std::string& dtype, std::string_view dtype_key, const std::string& why) {
  const std::string reason = why.empty() ? "" : fmt::format(" ({})", why);
  if (is_16_bit(dtype))
    throw InputError(
        fmt::format("{}: '{}' is not supported on the CPU{}, expected auto, fp32 or fp64",
                    dtype_key, dtype, reason));
  Placement placement;
  placement.dtype = dtype_named(dtype, nullptr);
  placement.text = fmt::format("cpu, {}{}", dtype_name(placement.dtype), reason);
  return placement;
}

/// The GPU asked for by number.
cuda::Gpu find_gpu(const std::string& device, int index, std::string_view key) {
  const std::string none = cuda::unavailable();
  if (!none.empty()) throw RunError(fmt::format("{}: '{}': {}", key, device, none));
  const std::vector<cuda::Gpu> gpus = cuda::gpus();
  for (const cuda::Gpu& gpu : gpus) {
    if (gpu.index != index) continue;
    const std::string reason = cuda::unusable(gpu);
    if (!reason.empty()) throw RunError(fmt::format("{}: '{}': {}", key, device, reason));
    return gpu;
  }
  throw RunError(fmt::format("{}: '{}': found {} GPU{}, expected cuda:0 to cuda:{}", key, device,
                             gpus.size(), gpus.size() == 1 ? "" : "s", gpus.size() - 1));
}

}  // namespace

std::string_view dtype_name(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return "fp64";
    case DType::bf16:
      return "bf16";
    case DType::f16:
      return "fp16";
    default:
      return "fp32";
  }
}

int thread_count(std::int64_t configured) {
  return configured > 0 ? static_cast<int>(configured) : available_threads();
}

bool is_device_name(std::string_view name) {
  return name == "auto" || name == "cpu" || gpu_index(name).has_value();
}

bool is_dtype_name(std::string_view name) {
  return name == "auto" || name == "fp32" || name == "fp64" || is_16_bit(name);
}

Placement place(const std::string& device, const std::string& dtype, std::string_view device_key,
                std::string_view dtype_key) {
  QF_EXPECTS(is_device_name(device) && is_dtype_name(dtype));
  if (device == "cpu") return on_cpu(dtype, dtype_key, "");
  if (device != "auto") return on_gpu(find_gpu(device, *gpu_index(device), device_key), dtype);
  std::string why = cuda::unavailable();
  for (const cuda::Gpu& gpu : cuda::gpus()) {
    const std::string reason = cuda::unusable(gpu);
    if (reason.empty()) return on_gpu(gpu, dtype);
    if (why.empty()) why = reason;
  }
  return on_cpu(dtype, dtype_key, why);
}

Placement place_trained(const std::string& device, const std::string& dtype,
                        std::string_view device_key) {
  if (!is_device_name(device))
    throw InputError(
        fmt::format("{}: found '{}', expected auto, cpu, cuda or cuda:N", device_key, device));
  const Placement placement = place(device, "auto", device_key);
  const bool on_cpu_in_16_bit = placement.device.type == DeviceType::cpu && is_16_bit(dtype);
  return place(device, dtype == "auto" || on_cpu_in_16_bit ? "fp32" : dtype, device_key);
}

Context context_for(const Placement& placement, std::int64_t threads) {
  Context ctx;
  ctx.device = placement.device;
  ctx.threads = thread_count(threads);
  return ctx;
}

}  // namespace quietformer
