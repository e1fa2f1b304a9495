// What forward and backward of `flash` share: packed operands, and the scores of a strip of query
// rows. See flash.h.
#pragma once

#include <algorithm>
#include <array>

#include "attention/dropout.h"
#include "attention/flash.h"
#include "attention/flash_rows.h"
#include "attention/l2norm.h"
#include "attention/score/score.h"
#include "core/parallel.h"

namespace quietformer {

inline KeyRange intersect(KeyRange a, KeyRange b) {
  const std::int64_t begin = std::max(a.begin, b.begin);
  return {begin, std::max(begin, std::min(a.end, b.end))};
}

/// Writes `value` over the part of `range` that is not `inside`, which lies within it or is empty.
template <class T>
void fill_outside(T* row, KeyRange inside, KeyRange range, T value) {
  for (std::int64_t j = range.begin; j < std::min(inside.begin, range.end); ++j) row[j] = value;
  for (std::int64_t j = std::max(inside.end, range.begin); j < range.end; ++j) row[j] = value;
}

inline KeyRange shift(KeyRange range, std::int64_t by) {
  return {range.begin + by, range.end + by};
}

/// Typed places in the workspace.
struct FlashMemory {
  char* data;
  std::int64_t slice_bytes;

  template <class U>
  U* at(std::int64_t offset) const {
    return reinterpret_cast<U*>(data + offset);
  }
  template <class U>
  U* in_slice(int slice, std::int64_t offset) const {
    return at<U>(slice * slice_bytes + offset);
  }
};

/// What one call, forward or backward, works on.
template <class T, class Layout>
struct FlashCall {
  const Context& ctx;
  const AttentionProblem& p;
  const Layout layout;
  const FlashMemory memory;
  const bool dropout;

  FlashCall(const Context& context, const AttentionProblem& problem)
      : ctx(context),
        p(problem),
        layout(context, problem),
        memory{static_cast<char*>(problem.workspace.data), layout.slice_bytes},
        dropout(problem.dropout.probability > 0 && context.mode == Mode::train) {}

  // By pair: near, far.
  const Tensor& q(int pair) const { return pair == 0 ? p.q : p.q2; }
  const Tensor& k(int pair) const { return pair == 0 ? p.k : p.k2; }
  const Tensor& dq(int pair) const { return pair == 0 ? p.dq : p.dq2; }
  const Tensor& dk(int pair) const { return pair == 0 ? p.dk : p.dk2; }

  // The caller's rows of one head, from the first of the sequence.
  Rows<T> queries(const Sequence& s, const Tensor& tensor, std::int64_t head) const {
    return s.rows<T>(tensor, head, s.first_query);
  }
  Rows<T> keys(const Sequence& s, const Tensor& tensor, std::int64_t kv_head) const {
    return s.rows<T>(tensor, kv_head, s.first_key);
  }

  /// Packed columns of the keys of one head, from `key` (at a panel) on.
  Panels<T> columns(std::int64_t offset, const Sequence& s, std::int64_t kv_head, std::int64_t key,
                    std::int64_t depth) const {
    return {memory.template at<T>(offset) + (layout.key_at(s, kv_head) + key) * depth,
            layout.shape.panel, layout.shape.panel * depth};
  }
  /// A row-major matrix on the right of a product.
  Panels<T> right(const T* rows, std::int64_t ld) const { return {rows, ld, layout.shape.panel}; }

  /// Rows in range as the product takes them, normalised if the score says so.
  template <class S>
  void pack_operand(Rows<T> from, KeyRange range, T* to, std::int64_t ld) const {
    if constexpr (S::operands == Operands::unit_groups) {
      l2norm_rows(to, ld, from[range.begin], from.stride, range.size(), layout.dim, p.groups);
      for (std::int64_t i = 0; i < range.size(); ++i)
        std::fill(to + i * ld + layout.dim, to + (i + 1) * ld, T(0));
    } else {
      pack_rows(to, ld, from[range.begin], from.stride, range.size(), layout.dim);
    }
  }

  /// Runs f(sequence, head, range, thread) for all rows of all sequences and heads, in ranges of at
  /// most `step` rows; the last ranges of all heads come first: with a causal mask they cost most.
  template <class F>
  void for_each_range(std::int64_t Sequence::*length, std::int64_t heads, std::int64_t step,
                      F&& f) const {
    std::int64_t longest = 0;
    for (std::int64_t b = 0; b < p.batch(); ++b)
      longest = std::max(longest, Sequence(p, b).*length);
    const std::int64_t count = (longest + step - 1) / step, columns = p.batch() * heads;
    parallel_chunks(ctx, count * columns, [&](std::int64_t chunk, int thread) {
      const std::int64_t begin = (count - 1 - chunk / columns) * step, column = chunk % columns;
      const Sequence sequence(p, column / heads);
      const std::int64_t end = std::min(begin + step, sequence.*length);
      if (begin < end) f(sequence, column % heads, KeyRange{begin, end}, thread);
    });
  }
};

/// A strip: queries [query, query + rows) and the keys that any of them sees within the key tile
/// that starts at `origin`, counted from there.
struct StripPlace {
  std::int64_t query, rows;
  std::int64_t origin;
  KeyRange keys;
  KeyRange columns;  // keys, rounded outwards to whole vectors
};

/// One query head of one sequence.
template <class S, class N, class T>
class FlashHead {
  static_assert(ScorePolicy<S>);
  static_assert(NormalizerPolicy<N>);

 public:
  const AttentionProblem& p;
  const Sequence& sequence;
  const std::int64_t kv_head;
  const QueryHead<N, T> head;
  const Band band;

  FlashHead(const AttentionProblem& problem, const Sequence& of, std::int64_t head_index)
      : p(problem),
        sequence(of),
        kv_head(head_index / (problem.heads() / problem.kv_heads())),
        head(problem, of, head_index),
        band(of.queries, of.keys, problem.causal, problem.window),
        // Distances lie between -L and S; clamping keeps far_end() from overflowing.
        threshold_(std::clamp(problem.threshold, -of.queries, of.keys)) {}

  /// Calls f(StripPlace) for the strips of queries in range that see keys of the tile.
  template <class F>
  void for_each_strip(KeyRange queries, KeyRange tile, const StripShape& shape, F&& f) const {
    const std::int64_t wide = shape.vector;
    for (std::int64_t i = queries.begin; i < queries.end; i += shape.rows) {
      const std::int64_t count = std::min(shape.rows, queries.end - i);
      const KeyRange keys = shift(intersect(band.keys(i, i + count), tile), -tile.begin);
      const KeyRange columns{keys.begin / wide * wide, (keys.end + wide - 1) / wide * wide};
      if (keys.size() > 0) f(StripPlace{i, count, tile.begin, keys, columns});
    }
  }

  /// Keys of the tile that row r of the strip sees.
  KeyRange visible(const StripPlace& strip, std::int64_t r) const {
    return intersect(shift(band.keys(strip.query + r), -strip.origin), strip.keys);
  }

  /// Keys [0, far_end) of row i take the far pair.
  std::int64_t far_end(std::int64_t i) const {
    if constexpr (S::pairs == 2)
      return S::far_end(band.position(i), threshold_, sequence.keys);
    else
      return 0;
  }

  /// Scaled products of a strip, then bias, ALiBi and masks; -inf for what a row does not see, in
  /// all of strip.columns: passes over rows then run over whole vectors, and need no tails. `q` are
  /// the rows of the strip as the product takes them, `k` the columns of the key tile, `out` and
  /// `far` (strip, tile) with `ld` elements between rows; `far` is scratch.
  void scores(const StripPlace& strip, const std::array<Strip<T>, S::pairs>& q,
              const std::array<Panels<T>, S::pairs>& k, T* out, T* far, std::int64_t ld) const {
    const std::int64_t begin = strip.keys.begin, end = strip.keys.end;
    if constexpr (S::pairs == 1) {
      product(strip.rows, {begin, end}, q[0], k[0], out, ld);
    } else {
      const auto cut = [&](std::int64_t i) {
        return std::clamp(far_end(i) - strip.origin, begin, end);
      };
      const std::int64_t all_far = cut(strip.query), any_far = cut(strip.query + strip.rows - 1);
      if (all_far == end) {
        product(strip.rows, {begin, end}, q[1], k[1], out, ld);
      } else {
        product(strip.rows, {all_far, end}, q[0], k[0], out, ld);
        product(strip.rows, {begin, any_far}, q[1], k[1], far, ld);
        for (std::int64_t r = 0; r < strip.rows; ++r)
          std::copy(far + r * ld + begin, far + r * ld + cut(strip.query + r),
                    out + r * ld + begin);
      }
    }
    for (std::int64_t r = 0; r < strip.rows; ++r) {
      const std::int64_t i = strip.query + r;
      const KeyRange keys = visible(strip, r);
      T* const row = out + r * ld;
      adjust_scores(p, sequence, head.index, head.slope, i, band.position(i), row, keys,
                    strip.origin);
      fill_outside(row, keys, strip.columns, -math::kInfinity<T>);
    }
  }

  /// Dropout factors of row r of the strip; returns a row that counts from the tile's start.
  void dropout_factors(const StripPlace& strip, std::int64_t r, KeyRange keys, T* factors) const {
    dropout_row(p.dropout, sequence.index, head.index, strip.query + r, shift(keys, strip.origin),
                factors + keys.begin);
  }

 private:
  void product(std::int64_t rows, KeyRange keys, const Strip<T>& q, const Panels<T>& k, T* out,
               std::int64_t ld) const {
    multiply_strip(rows, p.q.shape[3], keys.begin, keys.end, T(p.scale), q, k, out, ld,
                   Accumulate::overwrite);
  }

  const std::int64_t threshold_;
};

}  // namespace quietformer
