// Which device a command runs on, and in which type.
#pragma once

#include <string>
#include <string_view>

#include "core/context.h"
#include "core/dtype.h"

namespace quietformer {

/// What train.device and train.dtype, or an option --device, come to on this machine.
struct Placement {
  Device device;
  DType dtype = DType::f32;
  std::string text;  // "cuda:0 (NVIDIA H200), bf16"; "cpu, fp32 (no GPU: ...)"
};

/// Whether `name` is one of auto, cpu, cuda (the first GPU) and cuda:N.
bool is_device_name(std::string_view name);
/// Whether `name` is one of auto, fp32, bf16, fp16 and fp64.
bool is_dtype_name(std::string_view name);

/// `device` auto: the first GPU that this build can use, else the CPU. `dtype` auto: bf16 on GPUs
/// of compute capability 8.0 and newer, else fp32. Both are valid names. RunError when a GPU is
/// asked for and there is none, or none that this build can use; InputError for 16-bit types on the
/// CPU. `device_key` and `dtype_key` begin their messages.
Placement place(const std::string& device, const std::string& dtype,
                std::string_view device_key = "train.device",
                std::string_view dtype_key = "train.dtype");

/// For commands that run a trained model, `dtype` being its checkpoint's train.dtype, which is the
/// type it was trained in, so that its loss depends on the machine as little as can be: 16 bits
/// become fp32 on the CPU, and auto (weights from elsewhere) is fp32 everywhere.
Placement place_trained(const std::string& device, const std::string& dtype,
                        std::string_view device_key = "--device");

/// What train.dtype calls a floating type.
std::string_view dtype_name(DType dtype);

/// A context there, with `threads` (0: all available) on the CPU.
Context context_for(const Placement& placement, std::int64_t threads = 0);

/// Threads that train.threads asks for: 0 means all available.
int thread_count(std::int64_t configured);

}  // namespace quietformer
