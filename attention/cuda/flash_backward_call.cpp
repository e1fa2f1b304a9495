#include "attention/cuda/flash_backward_call.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "attention/registry.h"
#include "attention/workspace.h"

namespace quietformer::cuda {
namespace {

float* floats(const Tensor& tensor) {
  return tensor ? tensor.as<float>() : nullptr;
}

}  // namespace

FlashBackwardCall::FlashBackwardCall(const Context& ctx, const AttentionProblem& p)
    : q{RowTensor(p.q), RowTensor(p.q2)},
      k{RowTensor(p.k), RowTensor(p.k2)},
      v(p.v),
      o(p.o),
      d_out(p.do_),
      dq{RowTensor(p.dq), RowTensor(p.dq2)},
      dk{RowTensor(p.dk), RowTensor(p.dk2)},
      dv(p.dv),
      heads(static_cast<int>(p.heads())),
      group(static_cast<int>(p.heads() / p.kv_heads())),
      batch(static_cast<int>(p.q.shape[0])),
      queries(static_cast<int>(p.q.shape[2])),
      keys(static_cast<int>(p.k.shape[2])),
      dim(static_cast<int>(p.q.shape[3])),
      value_dim(static_cast<int>(p.v.shape[3])),
      // Never 0, as in forward: infinity times it must not be NaN.
      scale(static_cast<float>(std::copysign(
          std::max(std::abs(p.scale), double(std::numeric_limits<float>::min())), p.scale))),
      distances(p),
      parameters{},
      defaults{},
      row_state(floats(p.row_state)),
      d_parameters{},
      d_scale(floats(p.dscale)),
      options(ctx, p) {
  const auto& infos = find_normalizer(p.normalizer).parameters;
  for (std::size_t i = 0; i < infos.size(); ++i) {
    parameters[i] = floats(p.head_parameters[i]);
    defaults[i] = static_cast<float>(infos[i].default_value);
    d_parameters[i] = floats(p.d_head_parameters[i]);
  }
  const BackwardTiles tiles = BackwardTiles::of(padded());
  query_slots = static_cast<int>(options.tiles(queries, tiles.queries));
  key_slots = block_slots = static_cast<int>(options.tiles(keys, tiles.keys));
  row_blocks = (queries + kDeltaRows - 1) / kDeltaRows;
  set_bias_gradient(ctx, p);
  cut_workspace(ctx, p);
}

void FlashBackwardCall::set_bias_gradient(const Context& ctx, const AttentionProblem& p) {
  bias_gradient = {};
  bias_in_order = bias_copies = false;
  bias_count = 0;
  bias_sequences = bias_kv_heads = 1;
  if (p.dbias.shape.rank == 0) return;
  const auto step = [&](int dim) { return p.dbias.shape[dim] == 1 ? 0 : p.dbias.stride[dim]; };
  bias_gradient = {floats(p.dbias), step(0), step(1), step(2), step(3)};
  bias_count = p.dbias.count();
  bias_in_order = ctx.deterministic;
  if (!bias_in_order) return;
  if (p.bias.shape[0] == 1) bias_sequences = std::max(1, static_cast<int>(p.batch()));
  if (p.packed() && bias_sequences > 1) block_slots = keys / BackwardTiles::of(padded()).keys + 1;
  if (p.bias.shape[1] == 1) bias_kv_heads = static_cast<int>(p.kv_heads());
  bias_copies = p.bias.shape[3] == 1;
}

void FlashBackwardCall::cut_workspace(const Context& ctx, const AttentionProblem& p) {
  const int width = padded(), pairs = info_of(p.score).pairs;
  const BackwardTiles tiles = BackwardTiles::of(width);
  auto* const start = static_cast<std::uint8_t*>(p.workspace.data);
  Carver carve;
  const auto take = [&]<class U>(U*& pointer, std::int64_t count) {
    const std::int64_t offset = carve(count * static_cast<std::int64_t>(sizeof(U)));
    pointer = start == nullptr ? nullptr : reinterpret_cast<U*>(start + offset);
  };
  const std::int64_t rows = std::int64_t{batch} * heads, query_tiles = rows * query_slots;
  const bool unit = info_of(p.score).operands == Operands::unit_groups;
  query_sums[0] = query_sums[1] = nullptr;
  turns[0] = turns[1] = nullptr;
  for (int pair = 0; pair < pairs; ++pair) {
    take(query_sums[pair], query_tiles * tiles.queries * width);
    if (ctx.deterministic) take(turns[pair], query_tiles * tiles.teams * 2);
  }
  take(ticket, 1);
  take(element_partials, rows * key_slots * tiles.teams * pairs * kMaxHeadParameters);
  take(scale_partials, pairs * query_tiles);
  take(bias_copy, bias_copies ? std::int64_t{key_slots} * tiles.teams * bias_count : 0);
  zero_bytes = carve.bytes;
  take(row_partials, rows * row_blocks * kMaxHeadParameters);
  take(delta, rows * queries);
  take(inverse_q, unit ? rows * queries : 0);
  take(inverse_k, unit ? rows / group * keys : 0);
  bytes = carve.bytes;
}

}  // namespace quietformer::cuda
