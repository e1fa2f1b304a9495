#include "attention/flash.h"

#include <algorithm>

#include "attention/backward_sums.h"
#include "attention/pair_table.h"
#include "attention/widen.h"
#include "attention/workspace.h"

namespace quietformer {
namespace {

// What a tile may take of a core's second-level cache.
constexpr std::int64_t kTileBytes = 512 * 1024;
constexpr std::int64_t kLongestTile = 512;
// Backward cuts the keys until there are this many chunks for threads to share. Each split costs
// one more (B, H, L, D) for its part of dq.
constexpr std::int64_t kChunks = 16, kMaxSplits = 8;

std::int64_t round_up(std::int64_t count, std::int64_t step) {
  return (count + step - 1) / step * step;
}

/// Keys per tile, in whole panels, such that the tile stays in cache and is no longer than needed.
std::int64_t tile_keys(const FlashSizes& s, std::int64_t bytes_per_key, std::int64_t keys) {
  const std::int64_t panel = s.shape.panel;
  const std::int64_t fitting = std::min(kTileBytes / bytes_per_key, kLongestTile);
  const std::int64_t longest = std::min(fitting / panel * panel, round_up(keys, panel));
  return std::max(longest, panel);
}

std::int64_t count_splits(const AttentionProblem& p, std::int64_t keys_per_tile) {
  const Shape& bias = p.bias.shape;
  const bool has_bias = bias.rank == 4;
  // One value of such a gradient gathers from all keys of a row.
  if (has_bias && bias[3] == 1) return 1;
  const std::int64_t chunks =
      std::max<std::int64_t>(1, (has_bias && bias[0] == 1 ? 1 : p.batch()) *
                                    (has_bias && bias[1] == 1 ? 1 : p.kv_heads()));
  const std::int64_t tiles = (p.k.shape[2] + keys_per_tile - 1) / keys_per_tile;
  return std::max<std::int64_t>(1, std::min({kMaxSplits, tiles, (kChunks + chunks - 1) / chunks}));
}

bool unit_operands(const AttentionProblem& p) {
  return info_of(p.score).operands == Operands::unit_groups;
}

class Flash final : public AttentionImplementation {
 public:
  std::string_view name() const override { return "flash"; }

  std::optional<std::string> why_not(const AttentionProblem& problem,
                                     Direction direction) const override {
    if (problem.q.device.type != DeviceType::cpu) return "runs on the CPU only";
    if (direction == Direction::forward && problem.weights.shape.rank != 0)
      return "never holds the weights that the problem asks for";
    return std::nullopt;
  }

  std::int64_t workspace_bytes(const Context& ctx, const AttentionProblem& problem,
                               Direction direction) const override {
    if (stored_in_16_bits(problem)) return widened_workspace_bytes(*this, ctx, problem, direction);
    return direction == Direction::forward ? FlashForwardLayout(ctx, problem).bytes
                                           : FlashBackwardLayout(ctx, problem).bytes;
  }

  void forward(const Context& ctx, const AttentionProblem& problem) const override {
    prepare(*this, ctx, problem, Direction::forward);
    if (stored_in_16_bits(problem)) return run_widened(*this, ctx, problem, Direction::forward);
    PairTable<FlashPair>::find(problem).forward(ctx, problem);
  }

  void backward(const Context& ctx, const AttentionProblem& problem) const override {
    prepare(*this, ctx, problem, Direction::backward);
    if (stored_in_16_bits(problem)) return run_widened(*this, ctx, problem, Direction::backward);
    PairTable<FlashPair>::find(problem).backward(ctx, problem);
  }
};

}  // namespace

FlashSizes::FlashSizes(const AttentionProblem& p)
    : shape(p.q.dtype == DType::f64 ? strip_shape<double>() : strip_shape<float>()),
      size(size_of(p.q.dtype)),
      dim(p.q.shape[3]),
      value_dim(p.v.shape[3]),
      padded_dim(round_up(dim, shape.vector)),
      padded_value_dim(round_up(value_dim, shape.vector)),
      batch(p.q.shape[0]),
      heads(p.heads()),
      kv_heads(p.kv_heads()),
      queries(p.q.shape[2]) {
  // A packed sequence starts in a panel (a query tile) of its own.
  const std::int64_t total = p.k.shape[2], packed = p.packed() ? p.batch() : 0;
  keys = p.packed() ? (total / shape.panel + packed) * shape.panel : round_up(total, shape.panel);
  blocks = p.packed() ? queries / kQueries + packed : (queries + kQueries - 1) / kQueries;
  forward_keys = tile_keys(*this, 2 * (dim + value_dim) * size, total);
  backward_keys =
      tile_keys(*this, (3 * padded_dim + 2 * padded_value_dim + 2 * kQueries) * size, total);
  splits = count_splits(p, backward_keys);
}

FlashForwardLayout::FlashForwardLayout(const Context& ctx, const AttentionProblem& p)
    : FlashSizes(p), slices(std::max(1, ctx.threads)) {
  const std::int64_t pairs = info_of(p.score).pairs, unit = unit_operands(p) ? 1 : 0;
  const bool totalled = p.total_attention.shape.rank != 0;
  Carver slice;
  scores = slice(shape.rows * forward_keys * size);
  far_scores = slice((pairs - 1) * shape.rows * forward_keys * size);
  sums = slice(kQueries * padded_value_dim * size);
  for (int pair = 0; pair < 2; ++pair)
    unit_rows[pair] = slice(pair < pairs ? unit * kQueries * dim * size : 0);
  factors = slice(p.dropout.probability > 0 ? forward_keys * size : 0);
  totals = slice(totalled ? forward_keys * 8 : 0);
  slice_bytes = slice.bytes;

  Carver take;
  take(slices * slice_bytes);
  for (int pair = 0; pair < 2; ++pair)
    key_columns[pair] = take(pair < pairs ? batch * kv_heads * keys * dim * size : 0);
  value_rows = take(batch * kv_heads * keys * padded_value_dim * size);
  row_saved = take(totalled ? batch * heads * queries * 8 : 0);
  bytes = take.bytes;
}

FlashBackwardLayout::FlashBackwardLayout(const Context& ctx, const AttentionProblem& p)
    : FlashSizes(p), slices(std::max(1, ctx.threads)) {
  const std::int64_t pairs = info_of(p.score).pairs;
  Carver slice;
  // A vector more than the tile: columns at a power of two would fall into one cache set.
  tile_stride = backward_keys + shape.vector;
  weights = slice(kQueries * tile_stride * size);
  for (int pair = 0; pair < 2; ++pair) {
    const std::int64_t present = pair < pairs ? 1 : 0;
    gradients[pair] = slice(present * kQueries * tile_stride * size);
    key_sums[pair] = slice(present * backward_keys * padded_dim * size);
  }
  value_sums = slice(backward_keys * padded_value_dim * size);
  factors = slice(p.dropout.probability > 0 ? shape.rows * tile_stride * size : 0);
  row_copies = slice(2 * backward_keys * size);
  slice_bytes = slice.bytes;

  Carver take;
  take(slices * slice_bytes);
  for (int pair = 0; pair < 2; ++pair) {
    const std::int64_t present = pair < pairs ? 1 : 0;
    key_columns[pair] = take(present * batch * kv_heads * keys * dim * size);
    key_rows[pair] = take(present * batch * kv_heads * keys * padded_dim * size);
    query_rows[pair] = take(present * batch * heads * queries * padded_dim * size);
    query_sums[pair] = take(present * splits * query_sums_per_split() * size);
  }
  value_columns = take(batch * kv_heads * keys * value_dim * size);
  out_gradients = take(batch * heads * queries * padded_value_dim * size);
  delta = take(batch * heads * queries * 8);
  element_partials = take(p.batch() * heads * splits * kMaxHeadParameters * 8);
  row_partials = take(batch * heads * blocks * (kMaxHeadParameters + 1) * 8);
  partials = take(p.batch() * heads * (kMaxHeadParameters + 1) * 8);
  dbias = take(sums_bias_gradient(p) ? p.bias.shape.count() * 8 : 0);
  bytes = take.bytes;
}

const AttentionImplementation& flash_implementation() {
  static const Flash flash;
  return flash;
}

}  // namespace quietformer
