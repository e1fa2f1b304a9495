// Tensors of a GPU brought to the host. Internal to analysis/.
#pragma once

#include <utility>

#include "core/buffer.h"
#include "core/cuda/memory.h"

namespace quietformer {

class HostCopy {
 public:
  /// `value` (contiguous) itself if it is on the host, else a copy of it, 16-bit types in f32; the
  /// copy lives until the next call. Waits for the GPU.
  Tensor of(const Context& ctx, const Tensor& value) {
    if (value.device.type == DeviceType::cpu) return value;
    Tensor source = value;
    if (value.dtype == DType::bf16 || value.dtype == DType::f16) {
      source = room(wide_, DType::f32, value.shape, value.device);
      cuda::convert(ctx, source, value);
    }
    const Tensor copy = room(host_, source.dtype, source.shape, {});
    cuda::copy(copy, source);
    return copy;
  }

 private:
  static Tensor room(OwnedTensor& memory, DType dtype, const Shape& shape, Device device) {
    const Tensor& has = memory.view();
    if (!has || has.dtype != dtype || !(has.shape == shape) || !(has.device == device))
      memory = OwnedTensor(dtype, shape, device);
    return memory;
  }
  OwnedTensor wide_, host_;
};

}  // namespace quietformer
