#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "core/cuda/launch.h"
#include "core/cuda/memory.h"

namespace quietformer::cuda {
namespace {

template <class T>
__global__ void fill_kernel(T* out, std::int64_t count, T value) {
  for (std::int64_t i = first_index(); i < count; i += index_step()) out[i] = value;
}

template <class T>
void fill_as(const Context& ctx, const Tensor& out, T value) {
  const std::int64_t count = out.count();
  launch(ctx, "fill", shape_for(count), fill_kernel<T>, static_cast<T*>(out.data), count, value);
}

}  // namespace

void fill(const Context& ctx, const Tensor& out, double value) {
  QF_EXPECTS(out.contiguous() && out.device == ctx.device);
  if (out.count() == 0) return;
  const CurrentDevice current(ctx.device);
  switch (out.dtype) {
    case DType::f64:
      return fill_as<double>(ctx, out, value);
    case DType::f32:
      return fill_as<float>(ctx, out, static_cast<float>(value));
    case DType::bf16:
      return fill_as<__nv_bfloat16>(ctx, out, __double2bfloat16(value));
    case DType::f16:
      return fill_as<__half>(ctx, out, __double2half(value));
    case DType::i64:
      return fill_as<std::int64_t>(ctx, out, static_cast<std::int64_t>(value));
    case DType::i32:
      return fill_as<std::int32_t>(ctx, out, static_cast<std::int32_t>(value));
    case DType::u16:
      return fill_as<std::uint16_t>(ctx, out, static_cast<std::uint16_t>(value));
    case DType::u8:
      return fill_as<std::uint8_t>(ctx, out, static_cast<std::uint8_t>(value));
  }
}

}  // namespace quietformer::cuda
