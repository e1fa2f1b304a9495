// What kernels that compute in T (f32 or f64) read of a problem, row by row: plain data, passed by
// value at the launch. row_problem.cuh has what device code does with it.
#pragma once

#include <algorithm>
#include <cstdint>

#include "attention/attention.h"
#include "attention/cuda/packed.h"
#include "attention/mask.h"

namespace quietformer::cuda {

/// A (B|1, H|1, L|1, S|1) tensor: strides in elements, 0 along what is broadcast.
template <class T>
struct BroadcastView {
  T* data = nullptr;  // null: absent
  std::int64_t batch = 0, head = 0, query = 0, key = 0;

  BroadcastView() = default;
  explicit BroadcastView(const Tensor& t) : data(t.as<T>()) {
    if (t.shape.rank != 4) return;
    const auto step = [&](int dim) { return t.shape[dim] == 1 ? 0 : t.stride[dim]; };
    batch = step(0), head = step(1), query = step(2), key = step(3);
  }
};

/// A (B, heads, rows, features) tensor with unit inner stride; strides in elements.
template <class T>
struct MatrixView {
  T* data = nullptr;  // null: absent
  std::int64_t batch = 0, head = 0, row = 0;

  MatrixView() = default;
  explicit MatrixView(const Tensor& t)
      : data(t.as<T>()), batch(t.stride[0]), head(t.stride[1]), row(t.stride[2]) {}
  QF_HOST_DEVICE T* at(std::int64_t b, std::int64_t h, std::int64_t i) const {
    return data + b * batch + h * head + i * row;
  }
};

template <class T>
struct RowProblem {
  std::int64_t queries, keys;  // L and S; packed: of all sequences
  int heads, group;            // group: query heads per key head
  int dim, value_dim;          // D, Dv
  T scale;

  const std::int32_t *cu_queries = nullptr, *cu_keys = nullptr;  // null: not packed
  int sequences;  // B, or how many packed sequences there are

  std::int64_t left, right;    // keys [position - left, position + right] are visible
  std::int64_t far_threshold;  // of a score with two pairs

  BroadcastView<const std::uint8_t> mask, key_padding;  // 0 hides; key_padding is (B, 1, 1, S)
  BroadcastView<const T> bias, slopes;                  // slopes of ALiBi: (B|1, H, 1, 1)

  bool dropout;  // acts
  StreamSource stream;
  std::uint32_t threshold;  // core/random.h
  T kept;                   // 1 / (1 - p)

  const T* parameters[kMaxHeadParameters];  // (H) or null
  double defaults[kMaxHeadParameters];

  T *row_state, *lse, *lse_scores, *sink_mass, *row_sum;  // (B, H, L) or null

  /// Slots for tiles of `size` rows of `length` queries or keys in all.
  std::int64_t tiles(std::int64_t length, int size) const {
    return tile_slots(length, size, cu_queries != nullptr, sequences);
  }

  RowProblem(const Context& ctx, const AttentionProblem& p)
      : queries(p.q.shape[2]),
        keys(p.k.shape[2]),
        heads(static_cast<int>(p.heads())),
        group(static_cast<int>(p.heads() / p.kv_heads())),
        dim(static_cast<int>(p.q.shape[3])),
        value_dim(static_cast<int>(p.v.shape[3])),
        scale(static_cast<T>(p.scale)),
        sequences(static_cast<int>(p.batch())),
        // As in Band: a reach of S to the left and L to the right sees everything.
        left(p.window[0] < 0 ? keys : std::min(p.window[0], keys)),
        right(p.causal          ? 0
              : p.window[1] < 0 ? queries
                                : std::min(p.window[1], queries)),
        // Distances lie between -L and S; clamping keeps far_end() from overflowing.
        far_threshold(std::clamp(p.threshold, -queries, keys)),
        mask(p.mask),
        bias(p.bias),
        dropout(p.dropout.probability > 0 && ctx.mode == Mode::train),
        stream{{p.dropout.key, p.dropout.first_sample}, p.dropout.place},
        threshold(dropout_threshold(p.dropout.probability)),
        kept(static_cast<T>(1 / (1 - p.dropout.probability))),
        row_state(p.row_state.as<T>()),
        lse(p.lse.as<T>()),
        lse_scores(p.lse_scores.as<T>()),
        sink_mass(p.sink_mass.as<T>()),
        row_sum(p.row_sum.as<T>()) {
    if (p.packed()) {
      cu_queries = p.cu_seqlens_q.as<std::int32_t>();
      cu_keys = p.cu_seqlens_k.as<std::int32_t>();
    }
    if (const Tensor& padding = p.key_padding; padding.shape.rank != 0) {
      key_padding.data = padding.as<std::uint8_t>();
      key_padding.batch = padding.stride[0], key_padding.key = padding.stride[1];
    }
    if (const Tensor& tensor = p.alibi_slopes; tensor.shape.rank != 0) {
      slopes.data = tensor.as<T>();
      slopes.head = tensor.stride[tensor.shape.rank - 1];
      if (tensor.shape.rank == 2) slopes.batch = tensor.stride[0];
    }
    const auto& infos = find_normalizer(p.normalizer).parameters;
    for (int k = 0; k < kMaxHeadParameters; ++k) {
      parameters[k] = p.head_parameters[k].template as<T>();
      defaults[k] = std::size_t(k) < infos.size() ? infos[std::size_t(k)].default_value : 0;
    }
  }
};

}  // namespace quietformer::cuda
