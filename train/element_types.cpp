#include "train/element_types.h"

#include <cstring>

#include "core/half.h"

namespace quietformer {
namespace {

template <class From, class To, class Convert>
void convert(std::string_view bytes, To* out, Convert&& value_of) {
  const std::size_t count = bytes.size() / sizeof(From);
  for (std::size_t i = 0; i < count; ++i) {
    From item;
    std::memcpy(&item, bytes.data() + i * sizeof(From), sizeof(From));  // maybe not aligned
    out[i] = static_cast<To>(value_of(item));
  }
}

template <class To>
bool convert_floating(DType from, std::string_view bytes, To* out) {
  switch (from) {
    case DType::f64:
      convert<double>(bytes, out, [](double x) { return x; });
      return true;
    case DType::f32:
      convert<float>(bytes, out, [](float x) { return x; });
      return true;
    case DType::f16:
      convert<std::uint16_t>(bytes, out, f16_to_float);
      return true;
    case DType::bf16:
      convert<std::uint16_t>(bytes, out, bf16_to_float);
      return true;
    default:
      return false;
  }
}

}  // namespace

bool copy_elements(DType from, std::string_view bytes, const Tensor& out) {
  QF_EXPECTS(out.contiguous() && out.device.type == DeviceType::cpu);
  QF_EXPECTS(bytes.size() == static_cast<std::size_t>(out.count() * size_of(from)));
  if (from == out.dtype) {
    if (!bytes.empty()) std::memcpy(out.data, bytes.data(), bytes.size());
    return true;
  }
  if (out.dtype == DType::f32) return convert_floating(from, bytes, out.as<float>());
  if (out.dtype == DType::f64) return convert_floating(from, bytes, out.as<double>());
  return false;
}

}  // namespace quietformer
