// What the reference on a GPU does between its matrix products: kernels over a block of scores.
// T is float or double.
#pragma once

#include "attention/cuda/row_problem.h"

namespace quietformer::cuda {

/// Query rows [first_row, first_row + rows) of one query head of each of `tasks` (batch entry, key
/// head) pairs, and the keys that any of these rows may see. A block of scores holds row r of task
/// x from element x * task_stride + r * row_stride on; its columns count from key 0 of the batch
/// entry.
struct RowBlock {
  std::int64_t first_task;
  int tasks;
  int kv_heads;
  int group_head;  // which of the key head's query heads
  std::int64_t first_row;
  int rows;
  std::int64_t key_begin, key_end;
  std::int64_t row_stride, task_stride;  // in elements

  QF_HOST_DEVICE int batch(int x) const { return static_cast<int>((first_task + x) / kv_heads); }
  QF_HOST_DEVICE int kv_head(int x) const { return static_cast<int>((first_task + x) % kv_heads); }
  QF_HOST_DEVICE int head(int x, int group) const { return kv_head(x) * group + group_head; }
  QF_HOST_DEVICE std::int64_t at(int x, std::int64_t r) const {
    return x * task_stride + r * row_stride;
  }
};

/// Addresses of one operand of a batched product: base + batch entry * batch + key head * head +
/// task * task, in bytes.
struct Operand {
  char* base = nullptr;
  std::int64_t batch = 0, head = 0, task = 0;
};

inline constexpr int kMaxOperands = 16;
struct OperandList {
  Operand operand[kMaxOperands];
  int count = 0;
};

/// pointers[operand * tasks + x] for the tasks of a block.
void set_pointers(const Context& ctx, const RowBlock& block, const OperandList& operands,
                  void** pointers);

/// One normaliser; instantiated in generated sources.
template <class N>
struct ReferenceRows {
  /// Scaled products to weights, before dropout, in place, zero where hidden; and the rows'
  /// statistics. `weights` (B, H, L, S) gets a copy if not null.
  template <class T>
  static void weigh(const Context& ctx, const RowProblem<T>& problem, const RowBlock& block,
                    T* scores, T* weights);

  /// In: scaled products, and in `grads` gradients of the weights, dropout applied. Out: weights in
  /// `scores`, before dropout, and gradients of the scores in `grads`. `sums` (tasks, rows,
  /// kMaxHeadParameters) f64 gets each row's part of the parameter gradients.
  template <class T>
  static void differentiate(const Context& ctx, const RowProblem<T>& problem, const RowBlock& block,
                            T* scores, T* grads, const MatrixView<const T>& o,
                            const MatrixView<const T>& d_out, double* sums);
};

/// Scores of two pairs: keys that take the far pair get its product.
template <class T>
void select_far(const Context& ctx, Score score, const RowProblem<T>& problem,
                const RowBlock& block, T* near, const T* far);
/// And back: gradients that belong to the far pair go to `far`; zeros elsewhere.
template <class T>
void split_far(const Context& ctx, Score score, const RowProblem<T>& problem, const RowBlock& block,
               T* near, T* far);

/// Multiplies by the dropout factors.
template <class T>
void drop(const Context& ctx, const RowProblem<T>& problem, const RowBlock& block, T* scores);

/// totals (tasks, S) f64 += sums over the block's rows.
template <class T>
void add_totals(const Context& ctx, const RowBlock& block, const T* weights, double* totals,
                std::int64_t keys);
/// out (B, H, S) = totals, for the heads of the block.
template <class T>
void write_totals(const Context& ctx, const RowBlock& block, const RowProblem<T>& problem,
                  const double* totals, T* out);

/// Adds the block's gradients to `out`, of the shape of bias and contiguous.
template <class T, class Sum>
void add_bias_gradient(const Context& ctx, const RowProblem<T>& problem, const RowBlock& block,
                       const T* grads, const Shape& bias, Sum* out);
/// out[i] = T(sums[i]).
template <class T>
void round_sums(const Context& ctx, const double* sums, T* out, std::int64_t count);

/// sums (B, H, kMaxHeadParameters + 1) f64: adds up what differentiate() wrote.
void add_row_sums(const Context& ctx, const RowBlock& block, int group, const double* row_sums,
                  double* sums);
/// Adds the gradient of scale, dq.q / scale, to the last entry of each head.
template <class T>
void add_scale_gradient(const Context& ctx, const Tensor& q, const Tensor& dq, double scale,
                        double* sums);
/// Adds up the batch entries and writes d_head_parameters and dscale where they are present.
template <class T>
void write_parameter_gradients(const Context& ctx, const AttentionProblem& problem,
                               const double* sums);

}  // namespace quietformer::cuda
