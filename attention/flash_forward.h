// Forward of `flash`; see flash.h.
#pragma once

#include "attention/flash_tile.h"

namespace quietformer {

template <class S, class N, class T>
class FlashForward {
  using Head = FlashHead<S, N, T>;
  using Row = typename N::template Row<double>;
  static constexpr bool kUnit = S::operands == Operands::unit_groups;
  static constexpr bool kTwoPasses = N::row_normalised && N::weights_need_final_row;

 public:
  FlashForward(const Context& ctx, const AttentionProblem& problem)
      : call_(ctx, problem), p_(problem), layout_(call_.layout), memory_(call_.memory) {}

  void run() const {
    call_.for_each_range(&Sequence::keys, layout_.kv_heads, layout_.kPackedKeys,
                         [&](const Sequence& s, std::int64_t kv_head, KeyRange keys, int thread) {
                           pack_keys(s, kv_head, keys, thread);
                         });
    call_.for_each_range(&Sequence::queries, layout_.heads, layout_.kQueries,
                         [&](const Sequence& s, std::int64_t head, KeyRange queries, int thread) {
                           query_tile(Head(p_, s, head), queries, thread);
                         });
    if (!p_.total_attention) return;
    call_.for_each_range(&Sequence::keys, layout_.heads, layout_.forward_keys,
                         [&](const Sequence& s, std::int64_t head, KeyRange keys, int thread) {
                           total_tile(Head(p_, s, head), keys, thread);
                         });
  }

 private:
  /// The state of a row whose keys are still coming in; nothing without a row denominator.
  template <class Policy, bool = Policy::row_normalised>
  struct PartialOf {
    using type = NoRow<double>;
  };
  template <class Policy>
  struct PartialOf<Policy, true> {
    using type = typename Policy::template Partial<double>;
  };
  using Partial = typename PartialOf<N>::type;

  /// Query rows at work: buffers in the thread's slice, operand rows (row 0: the tile's first) and
  /// the state of each row.
  struct QueryTile {
    KeyRange queries;
    T *scores, *far_scores, *sums, *factors;
    std::array<Rows<T>, S::pairs> q;
    std::array<Partial, FlashSizes::kQueries> partial;
    std::array<Row, FlashSizes::kQueries> row;
    std::array<double, FlashSizes::kQueries> weight_sum{};
  };

  void pack_keys(const Sequence& s, std::int64_t kv_head, KeyRange keys, int slice) const {
    const std::int64_t at = layout_.key_at(s, kv_head) + keys.begin, dim = layout_.dim,
                       panel = layout_.shape.panel, ld = layout_.padded_value_dim;
    for (int pair = 0; pair < S::pairs; ++pair) {
      const Rows<T> from = call_.keys(s, call_.k(pair), kv_head);
      T* to = memory_.at<T>(layout_.key_columns[pair]) + at * dim;
      if constexpr (!kUnit) {
        pack_transposed(to, from[keys.begin], from.stride, keys.size(), dim);
      } else {
        T* const unit = memory_.in_slice<T>(slice, layout_.unit_rows[pair]);
        for (std::int64_t j = keys.begin; j < keys.end; j += panel, to += panel * dim) {
          const KeyRange part{j, std::min(j + panel, keys.end)};
          call_.template pack_operand<S>(from, part, unit, dim);
          pack_transposed(to, unit, dim, part.size(), dim);
        }
      }
    }
    const Rows<T> values = call_.keys(s, p_.v, kv_head);
    pack_rows(memory_.at<T>(layout_.value_rows) + at * ld, ld, values[keys.begin], values.stride,
              keys.size(), layout_.value_dim);
  }

  void begin_tile(const Head& h, KeyRange queries, int slice, QueryTile& tile) const {
    tile.queries = queries;
    tile.scores = memory_.in_slice<T>(slice, layout_.scores);
    tile.far_scores = memory_.in_slice<T>(slice, layout_.far_scores);
    tile.sums = memory_.in_slice<T>(slice, layout_.sums);
    tile.factors = memory_.in_slice<T>(slice, layout_.factors);
    for (int pair = 0; pair < S::pairs; ++pair) {
      const Rows<T> given = call_.queries(h.sequence, call_.q(pair), h.head.index);
      tile.q[pair] = {given[queries.begin], given.stride};
      if constexpr (kUnit) {
        tile.q[pair] = {memory_.in_slice<T>(slice, layout_.unit_rows[pair]), layout_.dim};
        call_.template pack_operand<S>(given, queries, tile.q[pair].data, layout_.dim);
      }
    }
  }

  /// Calls f(strip, first) for all strips of the tile that see keys of the key tile, `first` being
  /// the strip's first row within the tile, when their scores are in tile.scores.
  template <class F>
  void for_each_score_strip(const Head& h, const QueryTile& tile, KeyRange keys, F&& f) const {
    std::array<Panels<T>, S::pairs> columns;
    for (int pair = 0; pair < S::pairs; ++pair)
      columns[pair] =
          call_.columns(layout_.key_columns[pair], h.sequence, h.kv_head, keys.begin, layout_.dim);
    h.for_each_strip(tile.queries, keys, layout_.shape, [&](const StripPlace& strip) {
      const std::int64_t first = strip.query - tile.queries.begin;
      std::array<Strip<T>, S::pairs> q;
      for (int pair = 0; pair < S::pairs; ++pair)
        q[pair] = {tile.q[pair][first], tile.q[pair].stride, 1};
      h.scores(strip, q, columns, tile.scores, tile.far_scores, layout_.forward_keys);
      f(strip, first);
    });
  }

  /// The same for all key tiles that the tile sees.
  template <class F>
  void for_each_score_strip(const Head& h, const QueryTile& tile, F&& f) const {
    const std::int64_t step = layout_.forward_keys;
    const KeyRange all = h.band.keys(tile.queries.begin, tile.queries.end);
    for (std::int64_t key = all.begin / step * step; key < all.end; key += step)
      for_each_score_strip(h, tile, {key, std::min(key + step, h.sequence.keys)}, f);
  }

  void query_tile(const Head& h, KeyRange queries, int slice) const {
    QueryTile tile;
    begin_tile(h, queries, slice, tile);
    std::fill_n(tile.sums, queries.size() * layout_.padded_value_dim, T(0));
    if constexpr (kTwoPasses) {
      for_each_score_strip(h, tile, [&](const StripPlace& strip, std::int64_t first) {
        for (std::int64_t r = 0; r < strip.rows; ++r)
          sum_terms(tile.scores + r * layout_.forward_keys, strip.columns, tile.partial[first + r]);
      });
      for (std::int64_t r = 0; r < queries.size(); ++r)
        tile.row[r] = N::finish(tile.partial[r], h.head.parameters);
    }
    for_each_score_strip(h, tile, [&](const StripPlace& strip, std::int64_t first) {
      for (std::int64_t r = 0; r < strip.rows; ++r) weigh_row(h, strip, r, first + r, tile);
      add_values(h, strip, first, tile);
    });
    for (std::int64_t r = 0; r < queries.size(); ++r) finish_row(h, tile, r);
  }

  /// The first of two passes: the row's partial state alone.
  static void sum_terms(T* scores, KeyRange keys, Partial& partial) {
    N::raise(partial, double(largest(scores, keys.begin, keys.end)));
    flash_rows::terms<N>(scores, keys, partial);
    N::add(partial, double(sum(scores, keys.begin, keys.end)));
  }

  /// Scores of row r of the strip, row i of the tile, to weights, or to terms that are weights but
  /// for a factor; dropped, for the product.
  void weigh_row(const Head& h, const StripPlace& strip, std::int64_t r, std::int64_t i,
                 QueryTile& tile) const {
    T* const scores = tile.scores + r * layout_.forward_keys;
    const KeyRange keys = strip.columns;
    if constexpr (N::row_normalised && !kTwoPasses) {
      Partial& partial = tile.partial[i];
      const double factor = N::raise(partial, double(largest(scores, keys.begin, keys.end)));
      if (factor != 1) rescale(tile, i, factor);
      flash_rows::terms<N>(scores, keys, partial);
      const double total = double(sum(scores, keys.begin, keys.end));
      N::add(partial, total);
      tile.weight_sum[i] += total;
    } else {
      flash_rows::weights<N>(scores, keys, tile.row[i], h.head.parameters);
      if (p_.row_sum) tile.weight_sum[i] += double(sum(scores, keys.begin, keys.end));
    }
    if (call_.dropout) {
      h.dropout_factors(strip, r, h.visible(strip, r), tile.factors);
      multiply(scores, h.visible(strip, r), tile.factors);
    }
  }

  void rescale(QueryTile& tile, std::int64_t i, double factor) const {
    tile.weight_sum[i] *= factor;
    T* const sums = tile.sums + i * layout_.padded_value_dim;
    for (std::int64_t c = 0; c < layout_.padded_value_dim; ++c) sums[c] *= T(factor);
  }

  void add_values(const Head& h, const StripPlace& strip, std::int64_t first,
                  const QueryTile& tile) const {
    const std::int64_t ld = layout_.padded_value_dim;
    const std::int64_t key =
        layout_.key_at(h.sequence, h.kv_head) + strip.origin + strip.keys.begin;
    multiply_strip(strip.rows, strip.keys.size(), 0, layout_.value_dim, T(1),
                   Strip<T>{tile.scores + strip.keys.begin, layout_.forward_keys, 1},
                   call_.right(memory_.at<T>(layout_.value_rows) + key * ld, ld),
                   tile.sums + first * ld, ld, Accumulate::add);
  }

  /// Output and statistics of row r of the tile.
  void finish_row(const Head& h, const QueryTile& tile, std::int64_t r) const {
    const std::int64_t i = tile.queries.begin + r, at = h.sequence.row_index(p_, h.head.index, i);
    const auto write = [at](const Tensor& tensor, double value) {
      if (tensor) tensor.as<T>()[at] = T(value);
    };
    double scale = 1;
    if constexpr (N::row_normalised) {
      const Partial& partial = tile.partial[r];
      const Row row = N::finish(partial, h.head.parameters);
      if constexpr (!kTwoPasses) scale = N::scale(partial, h.head.parameters);
      write(p_.row_state, N::saved(row));
      if (p_.total_attention) memory_.at<double>(layout_.row_saved)[at] = N::saved(row);
      if (p_.lse || p_.lse_scores || p_.sink_mass) {
        const RowOutputs<double> outputs = N::outputs(partial, row, h.head.parameters);
        write(p_.lse, outputs.lse);
        write(p_.lse_scores, outputs.lse_scores);
        write(p_.sink_mass, outputs.sink_mass);
      }
    }
    write(p_.row_sum, tile.weight_sum[r] * scale);
    T* const out = call_.queries(h.sequence, p_.o, h.head.index)[i];
    const T* const sums = tile.sums + r * layout_.padded_value_dim;
    for (std::int64_t c = 0; c < layout_.value_dim; ++c) out[c] = sums[c] * T(scale);
  }

  /// total_attention of one key tile: the weights again, from the finished rows.
  void total_tile(const Head& h, KeyRange keys, int slice) const {
    double* const totals = memory_.in_slice<double>(slice, layout_.totals);
    std::fill_n(totals, keys.size(), 0.0);
    const KeyRange seeing = h.band.queries(keys.begin, keys.end);
    QueryTile tile;
    for (std::int64_t i = seeing.begin; i < seeing.end; i += layout_.kQueries) {
      begin_tile(h, {i, std::min(i + layout_.kQueries, seeing.end)}, slice, tile);
      for_each_score_strip(h, tile, keys, [&](const StripPlace& strip, std::int64_t) {
        for (std::int64_t r = 0; r < strip.rows; ++r) {
          Row row{};
          if constexpr (N::row_normalised)
            row = N::restore(memory_.at<double>(
                layout_.row_saved)[h.sequence.row_index(p_, h.head.index, strip.query + r)]);
          T* const scores = tile.scores + r * layout_.forward_keys;
          flash_rows::weights<N>(scores, strip.columns, row, h.head.parameters);
          flash_rows::add_to(totals, scores, strip.columns);
        }
      });
    }
    const std::int64_t head = h.sequence.batch * layout_.heads + h.head.index;
    T* const out =
        p_.total_attention.as<T>() + head * p_.k.shape[2] + h.sequence.first_key + keys.begin;
    for (std::int64_t j = 0; j < keys.size(); ++j) out[j] = T(totals[j]);
  }

  const FlashCall<T, FlashForwardLayout> call_;
  const AttentionProblem& p_;
  const FlashForwardLayout& layout_;
  const FlashMemory memory_;
};

}  // namespace quietformer
