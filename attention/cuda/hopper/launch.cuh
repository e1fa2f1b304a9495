// How the forward for compute capability 9.0 is started, and tensors as its kernels and those of
// backward_launch.cuh find them.
#pragma once

#include <algorithm>

#include "attention/cuda/hopper/forward.cuh"
#include "core/cuda/launch.h"

namespace quietformer::cuda {

inline TensorMap row_map(const Context& ctx, const RowTensor& x, std::int64_t batch,
                         std::int64_t heads, std::int64_t length, int features, int box_rows) {
  return tensor_map(x.data, {batch, heads, length, features}, {x.batch, x.head, x.row}, box_rows,
                    ctx.device);
}

template <class S, int dim>
void launch_hopper_forward(const Context& ctx, const FlashForwardCall& call,
                           void (*kernel)(HopperForwardCall)) {
  using Shape = HopperShape<S, dim>;
  const CurrentDevice current(ctx.device);
  HopperForwardCall all{call, {}, {}, {}, {}, 0, false};
  all.tiles = (call.queries + Shape::kRows - 1) / Shape::kRows;
  const std::int64_t heads = std::int64_t{call.heads} * call.batch;
  const int most = multiprocessors(ctx.device);
  // Rows that see different numbers of keys.
  const bool uneven = call.band.keys(0).size() != call.band.keys(call.queries - 1).size();
  all.paired = uneven && (all.tiles + 1) / 2 * heads >= most;
  const std::int64_t items = (all.paired ? (all.tiles + 1) / 2 : all.tiles) * heads;
  if (items == 0) return;
  const std::int64_t kv_heads = call.heads / call.group;
  for (int pair = 0; pair < S::pairs; ++pair) {
    all.q[pair] = row_map(ctx, call.q[pair], call.batch, call.heads, call.queries, call.dim, 64);
    all.k[pair] =
        row_map(ctx, call.k[pair], call.batch, kv_heads, call.keys, call.dim, Shape::kKeys);
  }
  all.v = row_map(ctx, call.v, call.batch, kv_heads, call.keys, call.value_dim, Shape::kKeys);
  all.o = row_map(ctx, call.o, call.batch, call.heads, call.queries, call.value_dim, 16);
  check_cuda(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Shape::kBytes),
      "attention forward", ctx.device);
  launch(ctx, "attention forward",
         {dim3(static_cast<unsigned>(std::min<std::int64_t>(items, most))), dim3(Shape::kThreads),
          Shape::kBytes},
         kernel, all);
}

}  // namespace quietformer::cuda
