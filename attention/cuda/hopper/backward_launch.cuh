// How a backward kernel for compute capability 9.0 is started.
#pragma once

#include <algorithm>

#include "attention/cuda/hopper/backward.cuh"
#include "attention/cuda/hopper/launch.cuh"

namespace quietformer::cuda {

template <class S, class N, int dim>
void launch_hopper_backward(const Context& ctx, const FlashBackwardCall& call,
                            void (*kernel)(HopperBackwardCall)) {
  using Shape = HopperBackwardShape<S, N, dim>;
  static_assert(BackwardTiles::of(dim).keys == Shape::kKeys &&
                BackwardTiles::of(dim).queries == 64);  // the workspace is cut for these
  const CurrentDevice current(ctx.device);
  const int kv_heads = call.heads / call.group;
  HopperBackwardCall all{call, {}, {}, {}, {}, call.key_slots * kv_heads * call.batch};
  if (all.items == 0) return;
  for (int pair = 0; pair < S::pairs; ++pair) {
    all.q[pair] =
        row_map(ctx, call.q[pair], call.batch, call.heads, call.queries, call.dim, Shape::kQueries);
    all.k[pair] =
        row_map(ctx, call.k[pair], call.batch, kv_heads, call.keys, call.dim, Shape::kKeys);
  }
  all.v = row_map(ctx, call.v, call.batch, kv_heads, call.keys, call.value_dim, Shape::kKeys);
  all.d_out = row_map(ctx, call.d_out, call.batch, call.heads, call.queries, call.value_dim,
                      Shape::kQueries);
  check_cuda(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Shape::kBytes),
      "attention backward", ctx.device);
  const int blocks = std::min(all.items, multiprocessors(ctx.device));
  launch(ctx, "attention backward",
         {dim3(static_cast<unsigned>(blocks)), dim3(Shape::kThreads), Shape::kBytes}, kernel, all);
}

}  // namespace quietformer::cuda
