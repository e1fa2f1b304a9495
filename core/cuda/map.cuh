// Elementwise kernels, in accesses of 16 bytes where memory allows them.
#pragma once

#include <cstdint>

#include "core/cuda/storage.cuh"

namespace quietformer::cuda {

template <class T, class F, class... Packs>
__device__ Pack<T> map_pack(const F& f, const Packs&... in) {
  Pack<T> out;
#pragma unroll
  for (int j = 0; j < Pack<T>::kSize; ++j) out.value[j] = f(in.value[j]...);
  return out;
}

/// `packs` packs, then single elements up to `count`.
template <class T, class F, class... In>
__global__ void map_kernel(T* out, std::int64_t packs, std::int64_t count, F f, const In*... in) {
  for (std::int64_t i = first_index(); i < packs; i += index_step())
    reinterpret_cast<Pack<T>*>(out)[i] = map_pack<T>(f, reinterpret_cast<const Pack<T>*>(in)[i]...);
  for (std::int64_t i = packs * Pack<T>::kSize + first_index(); i < count; i += index_step())
    out[i] = f(in[i]...);
}

/// out[i] = f(in[i]...) for i in [0, count); out may alias inputs exactly. F is a functor with a
/// __device__ T operator()(T...) const.
template <class T, class F, class... In>
void map(const Context& ctx, std::string_view name, T* out, std::int64_t count, const F& f,
         const In*... in) {
  const std::int64_t packs = starts_pack(out, in...) ? count / Pack<T>::kSize : 0;
  launch(ctx, name, shape_for(packs > 0 ? packs : count), map_kernel<T, F, In...>, out, packs,
         count, f, in...);
}

}  // namespace quietformer::cuda
