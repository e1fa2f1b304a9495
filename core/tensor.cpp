#include "core/tensor.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstring>
#include <utility>

namespace quietformer {

std::string to_string(const Shape& shape) {
  return fmt::format("({})", fmt::join(shape.size.begin(), shape.size.begin() + shape.rank, ", "));
}

Tensor::Tensor(void* data_, DType dtype_, const Shape& shape_, Device device_)
    : data(data_), shape(shape_), dtype(dtype_), device(device_) {
  std::int64_t step = 1;
  for (int i = shape.rank - 1; i >= 0; --i) {
    stride[i] = step;
    step *= shape[i];
  }
}

bool Tensor::contiguous() const {
  std::int64_t step = 1;
  for (int i = shape.rank - 1; i >= 0; --i) {
    if (shape[i] != 1 && stride[i] != step) return false;
    step *= shape[i];
  }
  return true;
}

Tensor Tensor::reshape(const Shape& to) const {
  QF_EXPECTS(contiguous() && to.count() == count());
  return Tensor(data, dtype, to, device);
}

Tensor Tensor::slice(int dim, std::int64_t begin, std::int64_t size) const {
  QF_EXPECTS(dim >= 0 && dim < shape.rank && begin >= 0 && begin + size <= shape[dim]);
  Tensor part = *this;
  part.data = static_cast<char*>(data) + begin * stride[dim] * size_of(dtype);
  part.shape[dim] = size;
  return part;
}

Tensor Tensor::transpose(int a, int b) const {
  Tensor swapped = *this;
  std::swap(swapped.shape[a], swapped.shape[b]);
  std::swap(swapped.stride[a], swapped.stride[b]);
  return swapped;
}

void fill_zero(const Tensor& tensor) {
  QF_EXPECTS(tensor.contiguous() && tensor.device.type == DeviceType::cpu);
  if (tensor.bytes() > 0) std::memset(tensor.data, 0, static_cast<std::size_t>(tensor.bytes()));
}

}  // namespace quietformer
