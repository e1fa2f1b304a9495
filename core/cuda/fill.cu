#include "core/cuda/memory.h"
#include "core/cuda/storage.cuh"

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

template <class To, class From>
__global__ void convert_kernel(To* to, const From* __restrict__ from, std::int64_t count) {
  for (std::int64_t i = first_index(); i < count; i += index_step())
    to[i] = narrow<To>(widen(from[i]));
}

}  // namespace

void convert(const Context& ctx, const Tensor& to, const Tensor& from) {
  expect_on_device(ctx, to, from);
  QF_EXPECTS(to.shape == from.shape && to.contiguous() && from.contiguous());
  if (to.count() == 0) return;
  const CurrentDevice current(ctx.device);
  dispatch_storage(to.dtype, [&]<class To>() {
    dispatch_storage(from.dtype, [&]<class From>() {
      launch(ctx, "convert", shape_for(to.count()), convert_kernel<To, From>, to.as<To>(),
             from.as<From>(), to.count());
    });
  });
}

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
