// Backward of `flash`: the tiles; flash_backward_rows.h has what happens once per row before and
// after. See flash.h.
#pragma once

#include "attention/backward_sums.h"
#include "attention/flash_tile.h"

namespace quietformer {

template <class S, class N, class T>
class FlashBackward {
  using Head = FlashHead<S, N, T>;
  using Row = typename N::template Row<double>;
  using Parameters = typename N::template Parameters<double>;
  static constexpr bool kUnit = S::operands == Operands::unit_groups;
  static constexpr int kSums = kMaxHeadParameters + 1;

 public:
  FlashBackward(const Context& ctx, const AttentionProblem& problem)
      : call_(ctx, problem),
        p_(problem),
        layout_(call_.layout),
        memory_(call_.memory),
        wants_parameters_(std::any_of(problem.d_head_parameters.begin(),
                                      problem.d_head_parameters.end(),
                                      [](const Tensor& tensor) { return bool(tensor); })) {}

  void run() const {
    double* const dbias = memory_.at<double>(layout_.dbias);
    begin_bias_gradient(p_, dbias);
    call_.for_each_range(&Sequence::keys, layout_.kv_heads, layout_.kPackedKeys,
                         [&](const Sequence& s, std::int64_t kv_head, KeyRange keys, int) {
                           pack_keys(s, kv_head, keys);
                         });
    call_.for_each_range(&Sequence::queries, layout_.heads, layout_.kQueries,
                         [&](const Sequence& s, std::int64_t head, KeyRange queries, int thread) {
                           prepare_queries(Head(p_, s, head), queries, thread);
                         });
    const BackwardChunks chunks(p_);
    parallel_chunks(call_.ctx, chunks.count() * layout_.splits, [&](std::int64_t at, int thread) {
      chunks.for_each_task(at % chunks.count(), [&](std::int64_t sequence, std::int64_t kv_head) {
        split_of_keys(Sequence(p_, sequence), kv_head, at / chunks.count(), thread);
      });
    });
    call_.for_each_range(&Sequence::queries, layout_.heads, layout_.kQueries,
                         [&](const Sequence& s, std::int64_t head, KeyRange queries, int) {
                           finish_queries(s, head, queries);
                         });
    finish_bias_gradient<T>(p_, dbias);
    write_sums();
  }

 private:
  /// The buffers of a slice. Tiles are (queries, keys), gradients those of near and far scores.
  struct Tiles {
    T* weights;
    std::array<T*, 2> gradients, key_sums;
    T *value_sums, *factors, *row_copies;
  };

  // Packed operands and sums of one head, from the first row of the sequence.
  Rows<T> packed_keys(const Sequence& s, std::int64_t kv_head, int pair) const {
    const std::int64_t ld = layout_.padded_dim;
    return {memory_.at<T>(layout_.key_rows[pair]) + layout_.key_at(s, kv_head) * ld, ld};
  }
  Rows<T> packed_queries(const Sequence& s, std::int64_t head, int pair) const {
    const std::int64_t ld = layout_.padded_dim;
    return {memory_.at<T>(layout_.query_rows[pair]) + layout_.query_at(s, head) * ld, ld};
  }
  Rows<T> packed_gradients(const Sequence& s, std::int64_t head) const {
    const std::int64_t ld = layout_.padded_value_dim;
    return {memory_.at<T>(layout_.out_gradients) + layout_.query_at(s, head) * ld, ld};
  }
  Rows<T> query_sums(const Sequence& s, std::int64_t head, int pair, std::int64_t split) const {
    const std::int64_t ld = layout_.padded_dim;
    return {memory_.at<T>(layout_.query_sums[pair]) + split * layout_.query_sums_per_split() +
                layout_.query_at(s, head) * ld,
            ld};
  }
  double* deltas(const Sequence& s, std::int64_t head) const {
    return memory_.at<double>(layout_.delta) + layout_.query_at(s, head);
  }
  double* row_partials(const Sequence& s, std::int64_t head, std::int64_t query) const {
    return memory_.at<double>(layout_.row_partials) +
           (layout_.block_at(s, head) + query / layout_.kQueries) * kSums;
  }
  double* element_partials(const Sequence& s, std::int64_t head, std::int64_t split) const {
    return memory_.at<double>(layout_.element_partials) +
           ((s.index * layout_.heads + head) * layout_.splits + split) * kMaxHeadParameters;
  }

  Tiles tiles(int slice) const {
    return {memory_.in_slice<T>(slice, layout_.weights),
            {memory_.in_slice<T>(slice, layout_.gradients[0]),
             memory_.in_slice<T>(slice, layout_.gradients[1])},
            {memory_.in_slice<T>(slice, layout_.key_sums[0]),
             memory_.in_slice<T>(slice, layout_.key_sums[1])},
            memory_.in_slice<T>(slice, layout_.value_sums),
            memory_.in_slice<T>(slice, layout_.factors),
            memory_.in_slice<T>(slice, layout_.row_copies)};
  }

  Row row(const Head& h, std::int64_t i) const {
    if constexpr (N::row_normalised)
      return N::restore(double(p_.row_state.as<T>()[h.sequence.row_index(p_, h.head.index, i)]));
    else
      return {};
  }

  // flash_backward_rows.h
  void pack_keys(const Sequence& s, std::int64_t kv_head, KeyRange keys) const;
  void prepare_queries(const Head& h, KeyRange queries, int slice) const;
  void sum_deltas(const Head& h, KeyRange queries, int slice) const;
  void write_key_gradients(const Sequence& s, std::int64_t kv_head, KeyRange keys,
                           const Tiles& tile) const;
  void finish_queries(const Sequence& s, std::int64_t head, KeyRange queries) const;
  void write_sums() const;

  /// Scores of a strip, and dP with dropout: the first two products. `weights`, `gradients` and
  /// `factors` (of dropout) are the rows of the strip.
  void strip_products(const Head& h, const StripPlace& strip, T* weights, T* gradients,
                      T* factors) const {
    const Sequence& s = h.sequence;
    const std::int64_t ld = layout_.tile_stride;
    std::array<Strip<T>, S::pairs> q;
    std::array<Panels<T>, S::pairs> k;
    for (int pair = 0; pair < S::pairs; ++pair) {
      q[pair] = {packed_queries(s, h.head.index, pair)[strip.query], layout_.padded_dim, 1};
      k[pair] = call_.columns(layout_.key_columns[pair], s, h.kv_head, strip.origin, layout_.dim);
    }
    h.scores(strip, q, k, weights, gradients, ld);
    const Strip<T> d_out{packed_gradients(s, h.head.index)[strip.query], layout_.padded_value_dim,
                         1};
    multiply_strip(
        strip.rows, layout_.value_dim, strip.keys.begin, strip.keys.end, T(1), d_out,
        call_.columns(layout_.value_columns, s, h.kv_head, strip.origin, layout_.value_dim),
        gradients, ld, Accumulate::overwrite);
    if (!call_.dropout) return;
    for (std::int64_t r = 0; r < strip.rows; ++r) {
      const KeyRange keys = h.visible(strip, r);
      h.dropout_factors(strip, r, keys, factors + r * ld);
      multiply(gradients + r * ld, keys, factors + r * ld);
    }
  }

  /// Every `splits`-th key tile of one key head, for all query heads of its group.
  void split_of_keys(const Sequence& s, std::int64_t kv_head, std::int64_t split, int slice) const {
    const std::int64_t group = layout_.heads / layout_.kv_heads, step = layout_.backward_keys;
    for (std::int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      for (int pair = 0; pair < S::pairs; ++pair)
        std::fill_n(query_sums(s, head, pair, split).data, s.queries * layout_.padded_dim, T(0));
      std::fill_n(element_partials(s, head, split), kMaxHeadParameters, 0.0);
    }
    const Tiles tile = tiles(slice);
    for (std::int64_t key = split * step; key < s.keys; key += layout_.splits * step) {
      const KeyRange keys{key, std::min(key + step, s.keys)};
      for (int pair = 0; pair < S::pairs; ++pair)
        std::fill_n(tile.key_sums[pair], keys.size() * layout_.padded_dim, T(0));
      std::fill_n(tile.value_sums, keys.size() * layout_.padded_value_dim, T(0));
      for (std::int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
        const Head h(p_, s, head);
        const KeyRange seeing = h.band.queries(keys.begin, keys.end);
        for (std::int64_t i = seeing.begin; i < seeing.end; i += layout_.kQueries) {
          const KeyRange queries{i, std::min(i + layout_.kQueries, seeing.end)};
          weigh_tile(h, queries, keys, split, tile);
          add_key_gradients(h, queries, keys, tile);
        }
      }
      write_key_gradients(s, kv_head, keys, tile);
    }
  }

  /// Weights and score gradients of one tile, row by row, and its part of dq.
  void weigh_tile(const Head& h, KeyRange queries, KeyRange keys, std::int64_t split,
                  const Tiles& tile) const {
    const std::int64_t ld = layout_.tile_stride;
    h.for_each_strip(queries, keys, layout_.shape, [&](const StripPlace& strip) {
      const std::int64_t first = (strip.query - queries.begin) * ld;
      strip_products(h, strip, tile.weights + first, tile.gradients[0] + first, tile.factors);
      for (std::int64_t r = 0; r < strip.rows; ++r) {
        const std::int64_t at = first + r * ld;
        const KeyRange visible = h.visible(strip, r), all{0, keys.size()};
        T *weights = tile.weights + at, *gradients = tile.gradients[0] + at;
        differentiate_row(h, strip.query + r, strip.columns, weights, gradients, split, tile);
        if (p_.dbias)
          add_bias_gradient(p_, h.sequence, h.head.index, strip.query + r, gradients, visible,
                            memory_.at<double>(layout_.dbias), strip.origin);
        if (call_.dropout) multiply(weights, visible, tile.factors + r * ld);
        fill_outside(weights, strip.columns, all, T(0));
        fill_outside(gradients, strip.columns, all, T(0));
        if constexpr (S::pairs == 2)
          part_far(h, strip.query + r, keys, gradients, tile.gradients[1] + at);
      }
      add_query_gradients(h, strip, first, split, tile);
    });
  }

  /// Scores and dP of row i become weights and dS, in `columns` of a tile.
  void differentiate_row(const Head& h, std::int64_t i, KeyRange columns, T* weights, T* gradients,
                         std::int64_t split, const Tiles& tile) const {
    const Row of_row = row(h, i);
    const Parameters parameters = h.head.parameters;
    const T delta = T(deltas(h.sequence, h.head.index)[i]);
    const bool in_place = !N::has_element_gradients || !wants_parameters_;
    T* const new_weights = in_place ? weights : tile.row_copies;
    T* const dscores = in_place ? gradients : tile.row_copies + layout_.backward_keys;
    flash_rows::differentiate<N>(weights, gradients, columns, delta, of_row, parameters,
                                 new_weights, dscores);
    if (in_place) return;
    if constexpr (N::has_element_gradients) {
      double* const sums = element_partials(h.sequence, h.head.index, split);
      for (int k = 0; k < int(N::parameters.size()); ++k)
        sums[k] += flash_rows::element_gradients<N>(k, weights, new_weights, gradients, dscores,
                                                    columns, of_row, parameters);
    }
    std::copy(new_weights + columns.begin, new_weights + columns.end, weights + columns.begin);
    std::copy(dscores + columns.begin, dscores + columns.end, gradients + columns.begin);
  }

  /// Parts a row of dS: far keys go to `far`, near ones stay, zeros elsewhere in the tile.
  void part_far(const Head& h, std::int64_t i, KeyRange keys, T* near, T* far) const {
    const std::int64_t cut = std::clamp<std::int64_t>(h.far_end(i) - keys.begin, 0, keys.size());
    std::copy(near, near + cut, far);
    std::fill(near, near + cut, T(0));
    std::fill(far + cut, far + keys.size(), T(0));
  }

  /// Keys of the strip that any of its rows takes from the pair.
  static KeyRange keys_of_pair(const Head& h, const StripPlace& strip, int pair) {
    if constexpr (S::pairs == 1) return strip.keys;
    const auto cut = [&](std::int64_t i) {
      return std::clamp(h.far_end(i) - strip.origin, strip.keys.begin, strip.keys.end);
    };
    return pair == 0 ? KeyRange{cut(strip.query), strip.keys.end}
                     : KeyRange{strip.keys.begin, cut(strip.query + strip.rows - 1)};
  }

  /// dQ += dS K of a strip whose rows begin at element `first` of the tiles.
  void add_query_gradients(const Head& h, const StripPlace& strip, std::int64_t first,
                           std::int64_t split, const Tiles& tile) const {
    for (int pair = 0; pair < S::pairs; ++pair) {
      if (!call_.dq(pair) && !p_.dscale) continue;
      const KeyRange keys = keys_of_pair(h, strip, pair);
      const Rows<T> out = query_sums(h.sequence, h.head.index, pair, split),
                    k = packed_keys(h.sequence, h.kv_head, pair);
      const Strip<T> left{tile.gradients[pair] + first + keys.begin, layout_.tile_stride, 1};
      multiply_strip(strip.rows, keys.size(), 0, layout_.dim, T(1), left,
                     call_.right(k[strip.origin + keys.begin], k.stride), out[strip.query],
                     out.stride, Accumulate::add);
    }
  }

  /// Queries of the range that take any of the keys from the pair: far_end() grows with the query.
  static KeyRange queries_of_pair(const Head& h, KeyRange queries, KeyRange keys, int pair) {
    if constexpr (S::pairs == 1) return queries;
    // Near: up to the first query whose far part holds all keys. Far: from the first whose far part
    // holds any.
    const std::int64_t key = pair == 0 ? keys.end : keys.begin + 1;
    KeyRange open = queries;
    while (open.size() > 0) {
      const std::int64_t middle = open.begin + open.size() / 2;
      (h.far_end(middle) >= key ? open.end : open.begin) =
          h.far_end(middle) >= key ? middle : middle + 1;
    }
    return pair == 0 ? KeyRange{queries.begin, open.begin} : KeyRange{open.begin, queries.end};
  }

  /// dV += P^T dO and dK += dS^T Q of one tile, by strips of keys.
  void add_key_gradients(const Head& h, KeyRange queries, KeyRange keys, const Tiles& tile) const {
    const std::int64_t ld = layout_.tile_stride;
    for (std::int64_t j = 0; j < keys.size(); j += layout_.shape.rows) {
      const std::int64_t count = std::min(layout_.shape.rows, keys.size() - j);
      const KeyRange strip{keys.begin + j, keys.begin + j + count};
      const KeyRange seeing = intersect(h.band.queries(strip.begin, strip.end), queries);
      // sums of the strip += (rows `of` and columns of the strip in a tile)^T right
      const auto add = [&](T* sums, std::int64_t width, const T* of_tile, KeyRange of,
                           Rows<T> right) {
        multiply_strip(count, of.size(), 0, width, T(1),
                       Strip<T>{of_tile + (of.begin - queries.begin) * ld + j, 1, ld},
                       call_.right(right[of.begin], right.stride), sums + j * right.stride,
                       right.stride, Accumulate::add);
      };
      if (p_.dv)
        add(tile.value_sums, layout_.value_dim, tile.weights, seeing,
            packed_gradients(h.sequence, h.head.index));
      for (int pair = 0; pair < S::pairs; ++pair)
        if (call_.dk(pair))
          add(tile.key_sums[pair], layout_.dim, tile.gradients[pair],
              queries_of_pair(h, seeing, strip, pair),
              packed_queries(h.sequence, h.head.index, pair));
    }
  }

  const FlashCall<T, FlashBackwardLayout> call_;
  const AttentionProblem& p_;
  const FlashBackwardLayout& layout_;
  const FlashMemory memory_;
  const bool wants_parameters_;
};

}  // namespace quietformer

#include "attention/flash_backward_rows.h"
