// Elementwise kernels, in accesses of 16 bytes where memory allows them.
#pragma once

#include <cstdint>

#include "core/cuda/storage.cuh"

namespace quietformer::cuda {

template <class T, class F, class... Packs>
__device__ Wide<T> map_pack(const F& f, const Packs&... in) {
  Wide<T> out;
#pragma unroll
  for (int j = 0; j < Pack<T>::kSize; ++j) out.value[j] = f(in.value[j]...);
  return out;
}

/// `packs` packs, then single elements up to `count`.
template <class T, class F, class... In>
__global__ void map_kernel(T* out, std::int64_t packs, std::int64_t count, F f, const In*... in) {
  constexpr int kSize = Pack<T>::kSize;
  for (std::int64_t i = first_index(); i < packs; i += index_step())
    store_pack(out + i * kSize, map_pack<T>(f, load_pack(in + i * kSize)...));
  for (std::int64_t i = packs * kSize + first_index(); i < count; i += index_step())
    out[i] = narrow<T>(f(widen(in[i])...));
}

/// out[i] = f(in[i]...) for i in [0, count); out may alias inputs exactly. F is a functor with a
/// __device__ C operator()(C...) const, C = Compute<T>.
template <class T, class F, class... In>
void map(const Context& ctx, std::string_view name, T* out, std::int64_t count, const F& f,
         const In*... in) {
  const std::int64_t packs = starts_pack(out, in...) ? count / Pack<T>::kSize : 0;
  launch(ctx, name, shape_for(packs > 0 ? packs : count), map_kernel<T, F, In...>, out, packs,
         count, f, in...);
}

}  // namespace quietformer::cuda
