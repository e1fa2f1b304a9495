// Backward of `flash`, row by row: packing operands and the row constants before the tiles, writing
// gradients after them. See flash.h.
#pragma once

#include "attention/flash_backward.h"

namespace quietformer {

template <class S, class N, class T>
void FlashBackward<S, N, T>::pack_keys(const Sequence& s, std::int64_t kv_head,
                                       KeyRange keys) const {
  const std::int64_t at = layout_.key_at(s, kv_head) + keys.begin;
  for (int pair = 0; pair < S::pairs; ++pair) {
    const Rows<T> packed = packed_keys(s, kv_head, pair);
    call_.template pack_operand<S>(call_.keys(s, call_.k(pair), kv_head), keys, packed[keys.begin],
                                   packed.stride);
    pack_transposed(memory_.at<T>(layout_.key_columns[pair]) + at * layout_.dim, packed[keys.begin],
                    packed.stride, keys.size(), layout_.dim);
  }
  const Rows<T> values = call_.keys(s, p_.v, kv_head);
  pack_transposed(memory_.at<T>(layout_.value_columns) + at * layout_.value_dim, values[keys.begin],
                  values.stride, keys.size(), layout_.value_dim);
}

/// Packs the rows of a query tile, finds their deltas and sums their parts of parameter gradients.
template <class S, class N, class T>
void FlashBackward<S, N, T>::prepare_queries(const Head& h, KeyRange queries, int slice) const {
  const Sequence& s = h.sequence;
  for (int pair = 0; pair < S::pairs; ++pair) {
    const Rows<T> packed = packed_queries(s, h.head.index, pair);
    call_.template pack_operand<S>(call_.queries(s, call_.q(pair), h.head.index), queries,
                                   packed[queries.begin], packed.stride);
  }
  const Rows<T> d_out = call_.queries(s, p_.do_, h.head.index),
                out = call_.queries(s, p_.o, h.head.index),
                packed = packed_gradients(s, h.head.index);
  pack_rows(packed[queries.begin], packed.stride, d_out[queries.begin], d_out.stride,
            queries.size(), layout_.value_dim);

  double* const delta = deltas(s, h.head.index);
  std::fill(delta + queries.begin, delta + queries.end, 0.0);
  if constexpr (N::delta_rule == DeltaRule::output_dot)
    for (std::int64_t i = queries.begin; i < queries.end; ++i)
      delta[i] = sum_keys({0, layout_.value_dim}, [a = d_out[i], b = out[i]](std::int64_t c) {
        return double(a[c]) * double(b[c]);
      });
  if constexpr (N::delta_rule == DeltaRule::share_mean) sum_deltas(h, queries, slice);

  double* const sums = row_partials(s, h.head.index, queries.begin);
  std::fill_n(sums, kSums, 0.0);
  if constexpr (N::has_row_gradients)
    if (wants_parameters_)
      for (std::int64_t i = queries.begin; i < queries.end; ++i)
        N::row_gradients(sums, delta[i], row(h, i), h.head.parameters);
}

/// DeltaRule::share_mean: a pass of its own over the rows.
template <class S, class N, class T>
void FlashBackward<S, N, T>::sum_deltas(const Head& h, KeyRange queries, int slice) const {
  const Tiles tile = tiles(slice);
  std::array<DeltaSums<double>, FlashSizes::kQueries> sums{};
  const KeyRange all = h.band.keys(queries.begin, queries.end);
  const std::int64_t step = layout_.backward_keys;
  const auto add_strip = [&](const StripPlace& strip) {
    strip_products(h, strip, tile.weights, tile.gradients[0], tile.factors);
    for (std::int64_t r = 0; r < strip.rows; ++r) {
      const Row of_row = row(h, strip.query + r);
      const T *scores = tile.weights + r * layout_.tile_stride,
              *dweights = tile.gradients[0] + r * layout_.tile_stride;
      const DeltaSums<double> part =
          flash_rows::delta_sums<N>(scores, dweights, strip.columns, of_row, h.head.parameters);
      DeltaSums<double>& sum = sums[std::size_t(strip.query + r - queries.begin)];
      sum.terms += part.terms, sum.shares += part.shares;
    }
  };
  for (std::int64_t key = all.begin / step * step; key < all.end; key += step)
    h.for_each_strip(queries, {key, std::min(key + step, h.sequence.keys)}, layout_.shape,
                     add_strip);
  double* const delta = deltas(h.sequence, h.head.index);
  for (std::int64_t i = queries.begin; i < queries.end; ++i)
    delta[i] = sums[std::size_t(i - queries.begin)].mean();
}

/// dk and dv of a key tile, from its sums.
template <class S, class N, class T>
void FlashBackward<S, N, T>::write_key_gradients(const Sequence& s, std::int64_t kv_head,
                                                 KeyRange keys, const Tiles& tile) const {
  const T scale = T(p_.scale);
  for (int pair = 0; pair < S::pairs; ++pair) {
    const Rows<T> out = call_.keys(s, call_.dk(pair), kv_head);
    if (!out) continue;
    for (std::int64_t j = 0; j < keys.size(); ++j) {
      T* const sums = tile.key_sums[pair] + j * layout_.padded_dim;
      T* const to = kUnit ? sums : out[keys.begin + j];
      for (std::int64_t c = 0; c < layout_.dim; ++c) to[c] = scale * sums[c];
    }
    if constexpr (kUnit) {
      const Rows<T> given = call_.keys(s, call_.k(pair), kv_head);
      l2norm_backward_rows(out[keys.begin], out.stride, tile.key_sums[pair], layout_.padded_dim,
                           given[keys.begin], given.stride, keys.size(), layout_.dim, p_.groups);
    }
  }
  if (const Rows<T> out = call_.keys(s, p_.dv, kv_head))
    for (std::int64_t j = 0; j < keys.size(); ++j)
      std::copy_n(tile.value_sums + j * layout_.padded_value_dim, layout_.value_dim,
                  out[keys.begin + j]);
}

/// dq and the part of dscale of a query tile, from the sums of all splits.
template <class S, class N, class T>
void FlashBackward<S, N, T>::finish_queries(const Sequence& s, std::int64_t head,
                                            KeyRange queries) const {
  double& dscale = row_partials(s, head, queries.begin)[kMaxHeadParameters];
  const T scale = T(p_.scale);
  for (int pair = 0; pair < S::pairs; ++pair) {
    const Rows<T> sums = query_sums(s, head, pair, 0), q = packed_queries(s, head, pair),
                  out = call_.queries(s, call_.dq(pair), head);
    if (!out && !p_.dscale) continue;
    for (std::int64_t i = queries.begin; i < queries.end; ++i) {
      T* const sum = sums[i];
      for (std::int64_t split = 1; split < layout_.splits; ++split) {
        const T* const other = query_sums(s, head, pair, split)[i];
        for (std::int64_t c = 0; c < layout_.dim; ++c) sum[c] += other[c];
      }
      if (p_.dscale)
        dscale += sum_keys({0, layout_.dim}, [sum, a = q[i]](std::int64_t c) {
          return double(sum[c]) * double(a[c]);
        });
      if (!out) continue;
      T* const to = kUnit ? sum : out[i];
      for (std::int64_t c = 0; c < layout_.dim; ++c) to[c] = scale * sum[c];
    }
    if constexpr (kUnit) {
      const Rows<T> given = call_.queries(s, call_.q(pair), head);
      if (out)
        l2norm_backward_rows(out[queries.begin], out.stride, sums[queries.begin], sums.stride,
                             given[queries.begin], given.stride, queries.size(), layout_.dim,
                             p_.groups);
    }
  }
}

/// Adds up the parts of parameter and scale gradients, in order.
template <class S, class N, class T>
void FlashBackward<S, N, T>::write_sums() const {
  double* const partials = memory_.at<double>(layout_.partials);
  for (std::int64_t b = 0; b < p_.batch(); ++b) {
    const Sequence s(p_, b);
    for (std::int64_t head = 0; head < layout_.heads; ++head) {
      double* const sums = partials + (b * layout_.heads + head) * kSums;
      std::fill_n(sums, kSums, 0.0);
      for (std::int64_t i = 0; i < s.queries; i += layout_.kQueries)
        for (int k = 0; k < kSums; ++k) sums[k] += row_partials(s, head, i)[k];
      for (std::int64_t split = 0; split < layout_.splits; ++split)
        for (int k = 0; k < kMaxHeadParameters; ++k) sums[k] += element_partials(s, head, split)[k];
    }
  }
  write_parameter_gradients<T>(p_, partials);
}

}  // namespace quietformer
