// The `flash` implementation on the CPU: tiled over queries and keys, O(L) memory, f32 and f64,
// every option but the export of `weights`.
//
//   forward                              backward
//   pack K^T, V                          pack K^T, K, V^T; Q, dO, delta per row
//   for query tiles        (parallel)    for (sequence, key head, key split)       (parallel)
//     for key tiles in the band            for key tiles of the split
//       for strips of query rows             for heads of the group, for query tiles in the band
//         S  = scale q K^T                     for strips of query rows
//         bias, ALiBi, masks                     S, P again; dP = dO V^T; dS = normaliser's
//         P  = terms of the normaliser           dQ += dS K
//         O += P V, rescaled                   for strips of keys
//     O * scale, row statistics                  dV += P^T dO, dK += dS^T Q
//                                        dQ summed over splits, times scale
//
// A strip is as many rows as the register tile of core/tile_product.h has, so its scores stay in L1
// between the products and the passes over rows, and the band (causal, window) is cut to strips on
// one side and to vectors on the other: little is computed that nobody sees. Operands are packed
// once per call: strides of the caller (rows of packed qkv lie pages apart) cost nothing
// afterwards.
//
// Chunks of parallel work, tiles and splits depend on the problem alone, so results are bitwise the
// same for any number of threads. Row states and parameter gradients are f64, products and sums
// over keys of a tile have the type of q.
#pragma once

#include <algorithm>

#include "attention/sequence.h"
#include "core/tile_product.h"

namespace quietformer {

/// Tiles and padded sizes, in elements: functions of shapes and options.
struct FlashSizes {
  /// Query rows per tile; a multiple of the rows of a strip.
  static constexpr std::int64_t kQueries = 96;
  /// Keys per chunk of packing.
  static constexpr std::int64_t kPackedKeys = 256;

  StripShape shape;
  std::int64_t size;                             // bytes of an element
  std::int64_t dim, value_dim;                   // D, Dv
  std::int64_t padded_dim, padded_value_dim;     // in whole vectors
  std::int64_t batch, heads, kv_heads, queries;  // leading dimensions of q and k, and L
  std::int64_t keys;    // room for the keys of one head: every sequence starts at a panel
  std::int64_t blocks;  // the same in query tiles
  std::int64_t forward_keys, backward_keys;  // keys per tile, whole panels
  std::int64_t splits;                       // of the keys, in backward

  explicit FlashSizes(const AttentionProblem& problem);

  /// First row (or column) of a head's keys among those of all heads.
  std::int64_t key_at(const Sequence& sequence, std::int64_t kv_head) const {
    return (sequence.batch * kv_heads + kv_head) * keys +
           (sequence.first_key / shape.panel + first_slot(sequence)) * shape.panel;
  }
  std::int64_t query_at(const Sequence& sequence, std::int64_t head) const {
    return (sequence.batch * heads + head) * queries + sequence.first_query;
  }
  /// Number of a query tile among those of all heads.
  std::int64_t block_at(const Sequence& sequence, std::int64_t head) const {
    return (sequence.batch * heads + head) * blocks + sequence.first_query / kQueries +
           first_slot(sequence);
  }

 private:
  /// Slots (panels, tiles) that sequences before a packed one may have left partly empty.
  static std::int64_t first_slot(const Sequence& sequence) {
    return sequence.index - sequence.batch;
  }
};

/// Where everything lies in the workspace, in bytes from its start (a slice's parts: from the
/// slice's). One slice per thread. [2]: near and far pair.
struct FlashForwardLayout : FlashSizes {
  std::int64_t key_columns[2];  // (B, Hk, D, S) in panels
  std::int64_t value_rows;      // (B, Hk, S, Dv) padded
  std::int64_t row_saved;       // (B, H, L) f64: saved values, for total_attention
  std::int64_t slices, slice_bytes;
  // Per slice:
  std::int64_t scores, far_scores;  // (strip, keys)
  std::int64_t sums;                // (kQueries, Dv) padded
  std::int64_t unit_rows[2];        // (kQueries, D)
  std::int64_t factors;             // (keys): dropout
  std::int64_t totals;              // (keys) f64
  std::int64_t bytes;

  FlashForwardLayout(const Context& ctx, const AttentionProblem& problem);
};

struct FlashBackwardLayout : FlashSizes {
  std::int64_t key_columns[2];    // (B, Hk, D, S) in panels
  std::int64_t value_columns;     // (B, Hk, Dv, S) in panels
  std::int64_t key_rows[2];       // (B, Hk, S, D) padded
  std::int64_t query_rows[2];     // (B, H, L, D) padded
  std::int64_t out_gradients;     // (B, H, L, Dv) padded
  std::int64_t delta;             // (B, H, L) f64
  std::int64_t query_sums[2];     // (splits, B, H, L, D) padded: dS K
  std::int64_t element_partials;  // (B, H, splits, kMaxHeadParameters) f64
  std::int64_t row_partials;      // (B, H, blocks, kMaxHeadParameters + 1) f64, the last for scale
  std::int64_t partials;          // (B, H, kMaxHeadParameters + 1) f64
  std::int64_t dbias;             // f64, size of bias: sums over broadcast dimensions
  std::int64_t slices, slice_bytes;
  // Per slice:
  std::int64_t tile_stride;              // elements between rows of the tiles
  std::int64_t weights, gradients[2];    // (kQueries, keys)
  std::int64_t key_sums[2], value_sums;  // (keys, D), (keys, Dv) padded: dS^T Q, P^T dO
  std::int64_t factors;                  // (strip, keys): dropout
  std::int64_t row_copies;  // (2, keys): weights and dS of a row before they replace their sources
  std::int64_t bytes;

  FlashBackwardLayout(const Context& ctx, const AttentionProblem& problem);

  std::int64_t query_sums_per_split() const { return batch * heads * queries * padded_dim; }
};

/// One (score, normaliser) pair; instantiated in generated sources, one per pair.
template <class S, class N>
struct FlashPair {
  static void forward(const Context& ctx, const AttentionProblem& problem);
  static void backward(const Context& ctx, const AttentionProblem& problem);
};

const AttentionImplementation& flash_implementation();

}  // namespace quietformer
