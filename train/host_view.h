// A tensor of any device, to be read on the host. Internal to train/.
#pragma once

#include "core/buffer.h"
#include "core/cuda/memory.h"

namespace quietformer {

/// The tensor itself on the CPU; of one on a GPU a copy, for which everything there is waited for.
class HostView {
 public:
  explicit HostView(const Tensor& tensor) : view_(tensor) {
    if (tensor.device.type == DeviceType::cpu) return;
    copy_ = OwnedTensor(tensor.dtype, tensor.shape);
    cuda::copy(copy_, tensor);
    view_ = copy_;
  }
  const Tensor& view() const { return view_; }

 private:
  OwnedTensor copy_;
  Tensor view_;
};

}  // namespace quietformer
