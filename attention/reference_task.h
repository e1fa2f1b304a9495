// The reference's work for one (sequence, key head): what forward and backward share. See
// reference.h.
#pragma once

#include <algorithm>

#include "attention/dropout.h"
#include "attention/l2norm.h"
#include "attention/reference.h"
#include "attention/reference_rows.h"
#include "attention/score/score.h"
#include "attention/sequence.h"
#include "core/gemm.h"

namespace quietformer {

template <class S, class N, class T>
class ReferenceTask {
  static_assert(ScorePolicy<S>, "attention/score/score.h says what a score provides");
  static_assert(NormalizerPolicy<N>,
                "attention/normalizer/normalizer.h says what a normaliser provides");
  static constexpr bool kUnit = S::operands == Operands::unit_groups;

 public:
  ReferenceTask(const Context& ctx, const AttentionProblem& problem, const ReferenceLayout& layout,
                std::int64_t slice, std::int64_t sequence, std::int64_t kv_head)
      : p_(problem),
        layout_(layout),
        sequence_(problem, sequence),
        kv_head_(kv_head),
        group_(problem.heads() / problem.kv_heads()),
        dim_(problem.q.shape[3]),
        value_dim_(problem.v.shape[3]),
        // Distances lie between -L and S; clamping keeps far_end() from overflowing.
        threshold_(std::clamp(problem.threshold, -sequence_.queries, sequence_.keys)),
        band_(sequence_.queries, sequence_.keys, problem.causal, problem.window),
        dropout_(problem.dropout.probability > 0 && ctx.mode == Mode::train),
        workspace_(static_cast<char*>(problem.workspace.data)),
        slice_(workspace_ + slice * layout.slice_bytes),
        weights_{scratch(layout.weights), layout.row_stride},
        grads_{scratch(layout.gradients), layout.row_stride},
        k_(key_rows(problem.k)),
        k2_(key_rows(problem.k2)),
        v_(key_rows(problem.v)) {
    if constexpr (kUnit) {
      const Rows<T> unit{scratch(layout.keys), dim_};
      l2norm_rows(unit.data, unit.stride, k_.data, k_.stride, sequence_.keys, dim_, p_.groups);
      k_ = unit;
    }
  }

  void forward() const;   // reference_forward.h
  void backward() const;  // reference_backward.h

 private:
  using Head = QueryHead<N, T>;

  /// Query rows [begin, begin + count) and the keys that any of them may see.
  struct Block {
    std::int64_t begin, count;
    KeyRange keys;
  };

  Head head(std::int64_t index) const { return Head(p_, sequence_, index); }

  /// Calls f(block) for all query rows of the sequence.
  template <class F>
  void for_each_block(F&& f) const {
    for (std::int64_t begin = 0; begin < sequence_.queries; begin += ReferenceLayout::kRows) {
      const std::int64_t count = std::min(ReferenceLayout::kRows, sequence_.queries - begin);
      f(Block{begin, count, band_.keys(begin, begin + count)});
    }
  }

  T* scratch(std::int64_t offset) const { return reinterpret_cast<T*>(slice_ + offset); }
  double* totals() const { return reinterpret_cast<double*>(slice_ + layout_.totals); }

  Rows<T> key_rows(const Tensor& tensor) const {
    return sequence_.rows<T>(tensor, kv_head_, sequence_.first_key);
  }
  Rows<T> query_rows(const Tensor& tensor, const Head& h, const Block& b) const {
    return sequence_.rows<T>(tensor, h.index, sequence_.first_query + b.begin);
  }

  /// Element of a contiguous (B, H, L) output.
  std::int64_t row_index(const Head& h, std::int64_t i) const {
    return sequence_.row_index(p_, h.index, i);
  }

  /// Queries as the product takes them; the scratch copy of unit rows is made by scores().
  Rows<T> operand_rows(const Head& h, const Block& b) const {
    if constexpr (kUnit) return {scratch(layout_.query_rows), dim_};
    return query_rows(p_.q, h, b);
  }

  /// out[:, keys] = scale * q k^T for the keys in range.
  void product(const Block& b, Rows<T> q, Rows<T> k, KeyRange keys, Rows<T> out) const {
    gemm_serial<T>(b.count, keys.size(), dim_, T(p_.scale), q.data, q.stride, Transpose::no,
                   k[keys.begin], k.stride, Transpose::yes, out.data + keys.begin, out.stride,
                   Accumulate::overwrite);
  }

  /// Keys [0, far_end) of row i take the far pair.
  std::int64_t far_end(std::int64_t i) const {
    return S::far_end(band_.position(i), threshold_, sequence_.keys);
  }

  /// Scaled products of a block into weights_. Two pairs: both products where rows of the block
  /// differ, with grads_ as scratch.
  void scores(const Head& h, const Block& b) const {
    const Rows<T> q = operand_rows(h, b);
    if constexpr (kUnit) {
      const Rows<T> given = query_rows(p_.q, h, b);
      l2norm_rows(q.data, q.stride, given.data, given.stride, b.count, dim_, p_.groups);
    }
    if constexpr (S::pairs == 1) {
      product(b, q, k_, b.keys, weights_);
    } else {
      const std::int64_t all_far = std::clamp(far_end(b.begin), b.keys.begin, b.keys.end);
      const std::int64_t any_far =
          std::clamp(far_end(b.begin + b.count - 1), b.keys.begin, b.keys.end);
      product(b, q, k_, {all_far, b.keys.end}, weights_);
      product(b, query_rows(p_.q2, h, b), k2_, {b.keys.begin, any_far}, grads_);
      for (std::int64_t r = 0; r < b.count; ++r) {
        const std::int64_t end = std::clamp(far_end(b.begin + r), b.keys.begin, b.keys.end);
        std::copy(grads_[r] + b.keys.begin, grads_[r] + end, weights_[r] + b.keys.begin);
      }
    }
  }

  void adjust(const Head& h, std::int64_t i, T* scores, KeyRange keys) const {
    adjust_scores(p_, sequence_, h.index, h.slope, i, band_.position(i), scores, keys);
  }

  /// The row's dropout factors, in scratch.
  const T* dropout_factors(const Head& h, std::int64_t i, KeyRange keys) const {
    T* factors = scratch(layout_.keep);
    dropout_row(p_.dropout, sequence_.index, h.index, i, keys, factors + keys.begin);
    return factors;
  }

  /// Keys of the block that row i does not see count as weight 0 in the block's products.
  static void zero_outside(T* row, KeyRange inside, KeyRange block) {
    std::fill(row + block.begin, row + inside.begin, T(0));
    std::fill(row + inside.end, row + block.end, T(0));
  }

  // forward
  void forward_block(const Head& h, const Block& b) const;
  void forward_row(const Head& h, std::int64_t i, T* row, KeyRange keys) const;
  template <class Partial, class Row>
  void record_row(const Head& h, std::int64_t i, const Partial& partial, const Row& row) const;
  void record_weights(const Head& h, std::int64_t i, const T* weights, KeyRange keys) const;

  // backward
  double* sums(const Head& h) const;
  void backward_block(const Head& h, const Block& b) const;
  void backward_row(const Head& h, std::int64_t i, const T* d_out, T* weights, T* grads,
                    KeyRange keys) const;
  void pair_gradients(const Head& h, const Block& b, Rows<T> grads, Rows<T> q, Rows<T> k,
                      const Tensor& dq, Rows<T> dk) const;
  void query_gradient(const Head& h, const Block& b, Rows<T> q, Rows<T> dq) const;
  void split_pairs(const Block& b) const;
  void zero_key_rows(Rows<T> matrix, std::int64_t width) const;

  const AttentionProblem& p_;
  const ReferenceLayout& layout_;
  const Sequence sequence_;
  const std::int64_t kv_head_, group_, dim_, value_dim_, threshold_;
  const Band band_;
  const bool dropout_;
  char* const workspace_;
  char* const slice_;
  const Rows<T> weights_, grads_;  // (rows of a block, S)
  Rows<T> k_;                      // as the product takes them
  const Rows<T> k2_, v_;
};

}  // namespace quietformer
