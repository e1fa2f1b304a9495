#include "attention/cuda/reference.h"

#include <algorithm>
#include <iterator>

#include "attention/cuda/reference_steps.h"
#include "attention/cuda/rows.h"
#include "attention/mask.h"
#include "attention/policies.h"
#include "attention/registry.h"
#include "attention/widen.h"
#include "attention/workspace.h"
#include "core/cuda/gemm.h"
#include "core/cuda/launch.h"
#include "core/cuda/memory.h"

namespace quietformer::cuda {
namespace {

template <class T>
struct RowPasses {
  std::string_view normalizer;
  decltype(&ReferenceRows<SoftmaxN>::weigh<T>) weigh;
  decltype(&ReferenceRows<SoftmaxN>::differentiate<T>) differentiate;
};

template <class T>
const RowPasses<T>& passes_of(std::string_view normalizer) {
#define QF_PASSES(word, Type) \
  {Type::name, &ReferenceRows<Type>::weigh<T>, &ReferenceRows<Type>::differentiate<T>},
  static constexpr RowPasses<T> kPasses[] = {QUIETFORMER_NORMALIZERS(QF_PASSES)};
#undef QF_PASSES
  return *std::find_if(std::begin(kPasses), std::end(kPasses), [&](const RowPasses<T>& passes) {
    return passes.normalizer == normalizer;  // check() knows the same list
  });
}

/// One call on operands of T.
template <class T>
class Run {
 public:
  Run(const Context& ctx, const AttentionProblem& problem, Direction direction)
      : ctx_(ctx),
        p_(problem),
        layout_(problem, direction),
        rows_(ctx, problem),
        passes_(passes_of<T>(problem.normalizer)),
        band_(problem.q.shape[2], problem.k.shape[2], problem.causal, problem.window),
        two_pairs_(info_of(problem.score).pairs == 2),
        weights_(memory<T>(layout_.weights)),
        grads_(memory<T>(layout_.gradients)),
        q_(operand(problem.q, layout_.q)),
        k_(operand(problem.k, layout_.k)),
        q2_(operand(problem.q2, layout_.q2)),
        k2_(operand(problem.k2, layout_.k2)),
        v_(operand(problem.v, layout_.v)) {
    if (info_of(p_.score).operands != Operands::unit_groups) return;
    l2norm_rows(ctx_, q_, p_.q, p_.groups);
    l2norm_rows(ctx_, k_, p_.k, p_.groups);
  }

  void forward() {
    zero_rows(ctx_, p_.o);  // blocks that see no key write nothing
    for_each_chunk([&](const RowBlock& chunk) {
      double* const totals = p_.total_attention ? memory<double>(layout_.totals) : nullptr;
      if (totals != nullptr)
        fill(ctx_, Tensor(totals, DType::f64, {chunk.tasks * rows_.keys}, p_.q.device), 0);
      for_each_block(chunk, [&](const RowBlock& b) { forward_block(b, totals); });
      if (totals != nullptr)
        write_totals<T>(ctx_, chunk, rows_, totals, p_.total_attention.as<T>());
    });
  }

  void backward() {
    const bool unit = info_of(p_.score).operands == Operands::unit_groups;
    d_out_ = operand(p_.do_, layout_.d_out);
    dq_ = layout_.dq < 0 ? p_.dq : whole(p_.q, layout_.dq);
    dq2_ = layout_.dq2 < 0 ? p_.dq2 : whole(p_.q2, layout_.dq2);
    dk_ = layout_.dk < 0 ? p_.dk : whole(p_.k, layout_.dk);
    for (const Tensor& gradient : {dq_, dq2_, dk_, p_.dk2, p_.dv})
      if (gradient) zero_rows(ctx_, gradient);
    double* const sums = memory<double>(layout_.sums);
    fill(ctx_,
         Tensor(sums, DType::f64, {p_.q.shape[0] * p_.heads() * (kMaxHeadParameters + 1)},
                p_.q.device),
         0);
    if (p_.dbias) {
      fill(ctx_, p_.dbias, 0);
      if (layout_.dbias >= 0)
        fill(ctx_, Tensor(memory<double>(layout_.dbias), DType::f64, p_.bias.shape, p_.q.device),
             0);
    }
    for_each_chunk([&](const RowBlock& chunk) {
      for_each_block(chunk, [&](const RowBlock& b) { backward_block(b, sums); });
    });
    if (p_.dscale) {
      add_scale_gradient<T>(ctx_, q_, dq_, p_.scale, sums);
      if (two_pairs_) add_scale_gradient<T>(ctx_, q2_, dq2_, p_.scale, sums);
    }
    write_parameter_gradients<T>(ctx_, p_, sums);
    if (p_.dbias && layout_.dbias >= 0)
      round_sums<T>(ctx_, memory<double>(layout_.dbias), p_.dbias.as<T>(), p_.dbias.count());
    if (unit && p_.dq) l2norm_backward_rows(ctx_, p_.dq, dq_, p_.q, p_.groups);
    if (unit && p_.dk) l2norm_backward_rows(ctx_, p_.dk, dk_, p_.k, p_.groups);
  }

 private:
  template <class U>
  U* memory(std::int64_t offset) const {
    return offset < 0 ? nullptr
                      : reinterpret_cast<U*>(static_cast<char*>(p_.workspace.data) + offset);
  }
  Tensor whole(const Tensor& like, std::int64_t offset) const {
    return Tensor(memory<T>(offset), like.dtype, like.shape, like.device);
  }
  /// The tensor as products take it: itself, or its copy in the workspace.
  Tensor operand(const Tensor& given, std::int64_t offset) const {
    if (offset < 0) return given;
    const Tensor copy = whole(given, offset);
    convert_rows(ctx_, copy, given);
    return copy;
  }

  /// f(chunk) for the query heads of chunks of (batch entry, key head) pairs; a chunk is a block
  /// without rows.
  template <class F>
  void for_each_chunk(F&& f) const {
    const std::int64_t all = p_.q.shape[0] * p_.kv_heads();
    RowBlock chunk{};
    chunk.kv_heads = static_cast<int>(p_.kv_heads());
    chunk.row_stride = layout_.row_stride, chunk.task_stride = layout_.rows * layout_.row_stride;
    for (; chunk.first_task < all; chunk.first_task += layout_.tasks) {
      chunk.tasks = static_cast<int>(std::min(layout_.tasks, all - chunk.first_task));
      for (chunk.group_head = 0; chunk.group_head < rows_.group; ++chunk.group_head) f(chunk);
    }
  }

  template <class F>
  void for_each_block(const RowBlock& chunk, F&& f) const {
    for (std::int64_t row = 0; row < rows_.queries; row += layout_.rows) {
      RowBlock b = chunk;
      b.first_row = row, b.rows = static_cast<int>(std::min(layout_.rows, rows_.queries - row));
      b.key_begin = 0, b.key_end = rows_.keys;
      if (!p_.packed()) {
        const KeyRange keys = band_.keys(row, row + b.rows);
        b.key_begin = keys.begin / 32 * 32;  // aligned, for the products
        b.key_end = keys.end;
        if (keys.size() == 0) b.key_begin = b.key_end;
      }
      f(b);
    }
  }

  // --- operands of batched products: every matrix of a block, by its place in the list ---

  std::int64_t kv_bytes(const Tensor& t, std::int64_t heads) const {
    return t.stride[1] * heads * size_of(t.dtype);
  }
  BatchedMatrix add(const Operand& operand, std::int64_t row_stride) {
    BatchedMatrix matrix;
    matrix.data = memory<void*>(layout_.pointers) + operands_.count * block_.tasks;
    matrix.row_stride = row_stride;
    operands_.operand[operands_.count++] = operand;
    return matrix;
  }
  static std::int64_t row_stride(const Tensor& t) { return std::max(t.stride[2], t.shape[3]); }
  /// The block's rows of a (B, H, L, .) tensor.
  BatchedMatrix query_rows(const Tensor& t) {
    const std::int64_t size = size_of(t.dtype);
    return add({static_cast<char*>(t.data) +
                    (block_.group_head * t.stride[1] + block_.first_row * t.stride[2]) * size,
                t.stride[0] * size, kv_bytes(t, rows_.group), 0},
               row_stride(t));
  }
  /// The block's keys of a (B, Hk, S, .) tensor.
  BatchedMatrix key_rows(const Tensor& t) {
    const std::int64_t size = size_of(t.dtype);
    return add({static_cast<char*>(t.data) + block_.key_begin * t.stride[2] * size,
                t.stride[0] * size, kv_bytes(t, 1), 0},
               row_stride(t));
  }
  BatchedMatrix scores(T* buffer) {
    return add({reinterpret_cast<char*>(buffer + block_.key_begin), 0, 0,
                block_.task_stride * std::int64_t{sizeof(T)}},
               block_.row_stride);
  }
  void begin_operands(const RowBlock& b) {
    block_ = b;
    operands_.count = 0;
  }
  void end_operands() { set_pointers(ctx_, block_, operands_, memory<void*>(layout_.pointers)); }
  static BatchedMatrix transposed(BatchedMatrix matrix) {
    matrix.transpose = Transpose::yes;
    return matrix;
  }
  void multiply(std::int64_t m, std::int64_t n, std::int64_t k, double alpha,
                const BatchedMatrix& a, const BatchedMatrix& b, const BatchedMatrix& c,
                Accumulate accumulate = Accumulate::overwrite) const {
    gemm_batched(ctx_, p_.q.dtype, block_.tasks, m, n, k, alpha, a, b, c, accumulate);
  }

  void forward_block(const RowBlock& b, double* totals) {
    const std::int64_t keys = b.key_end - b.key_begin;
    begin_operands(b);
    const BatchedMatrix q = query_rows(q_), k = key_rows(k_), v = key_rows(v_),
                        o = query_rows(p_.o), weights = scores(weights_);
    BatchedMatrix q2, k2, far;
    if (two_pairs_) q2 = query_rows(q2_), k2 = key_rows(k2_), far = scores(grads_);
    if (keys > 0) {
      end_operands();
      multiply(b.rows, keys, rows_.dim, p_.scale, q, transposed(k), weights);
      if (two_pairs_) {
        multiply(b.rows, keys, rows_.dim, p_.scale, q2, transposed(k2), far);
        select_far<T>(ctx_, p_.score, rows_, b, weights_, grads_);
      }
    }
    passes_.weigh(ctx_, rows_, b, weights_, p_.weights.as<T>());
    if (keys == 0) return;
    if (totals != nullptr) add_totals<T>(ctx_, b, weights_, totals, rows_.keys);
    if (rows_.dropout) drop(ctx_, rows_, b, weights_);
    multiply(b.rows, rows_.value_dim, keys, 1, weights, v, o);
  }

  void backward_block(const RowBlock& b, double* sums) {
    const std::int64_t keys = b.key_end - b.key_begin;
    if (keys == 0) return;  // gradients are zero already
    begin_operands(b);
    const BatchedMatrix q = query_rows(q_), k = key_rows(k_), v = key_rows(v_),
                        d_out = query_rows(d_out_), weights = scores(weights_),
                        grads = scores(grads_);
    const BatchedMatrix dq = dq_ ? query_rows(dq_) : BatchedMatrix(),
                        dk = dk_ ? key_rows(dk_) : BatchedMatrix(),
                        dv = p_.dv ? key_rows(p_.dv) : BatchedMatrix();
    BatchedMatrix q2, k2, dq2, dk2;
    if (two_pairs_) {
      q2 = query_rows(q2_), k2 = key_rows(k2_);
      if (dq2_) dq2 = query_rows(dq2_);
      if (p_.dk2) dk2 = key_rows(p_.dk2);
    }
    end_operands();
    multiply(b.rows, keys, rows_.dim, p_.scale, q, transposed(k), weights);
    if (two_pairs_) {
      multiply(b.rows, keys, rows_.dim, p_.scale, q2, transposed(k2), grads);
      select_far<T>(ctx_, p_.score, rows_, b, weights_, grads_);
    }
    multiply(b.rows, keys, rows_.value_dim, 1, d_out, transposed(v), grads);
    // Gradients of dropped weights are those of weights times the factors. Where no weight is
    // visible products may be anything, so what is hidden becomes zero in the row pass, after this.
    if (rows_.dropout) drop(ctx_, rows_, b, grads_);
    double* const row_sums = memory<double>(layout_.row_sums);
    passes_.differentiate(ctx_, rows_, b, weights_, grads_, MatrixView<const T>(p_.o),
                          MatrixView<const T>(p_.do_), row_sums);
    add_row_sums(ctx_, b, rows_.group, row_sums, sums);
    if (p_.dbias) {
      if (layout_.dbias >= 0)
        add_bias_gradient<T>(ctx_, rows_, b, grads_, p_.bias.shape, memory<double>(layout_.dbias));
      else
        add_bias_gradient<T>(ctx_, rows_, b, grads_, p_.bias.shape, p_.dbias.as<T>());
    }
    if (rows_.dropout) drop(ctx_, rows_, b, weights_);
    if (p_.dv)
      multiply(keys, rows_.value_dim, b.rows, 1, transposed(weights), d_out, dv, Accumulate::add);
    if (two_pairs_) {
      split_far<T>(ctx_, p_.score, rows_, b, grads_, weights_);
      pair_gradients(b, weights, q2, k2, dq2, dk2);
    }
    pair_gradients(b, grads, q, k, dq, dk);
  }

  /// Gradients of one pair (q, k) from those of its scores.
  void pair_gradients(const RowBlock& b, const BatchedMatrix& grads, const BatchedMatrix& q,
                      const BatchedMatrix& k, const BatchedMatrix& dq,
                      const BatchedMatrix& dk) const {
    const std::int64_t keys = b.key_end - b.key_begin;
    if (dq.data != nullptr) multiply(b.rows, rows_.dim, keys, p_.scale, grads, k, dq);
    if (dk.data != nullptr)
      multiply(keys, rows_.dim, b.rows, p_.scale, transposed(grads), q, dk, Accumulate::add);
  }

  const Context& ctx_;
  const AttentionProblem& p_;
  const ReferenceLayout layout_;
  const RowProblem<T> rows_;
  const RowPasses<T>& passes_;
  const Band band_;
  const bool two_pairs_;
  T *const weights_, *const grads_;
  const Tensor q_, k_, q2_, k2_, v_;  // as products take them
  Tensor d_out_, dq_, dk_, dq2_;
  RowBlock block_{};
  OperandList operands_;
};

class Reference final : public AttentionImplementation {
 public:
  std::string_view name() const override { return "reference"; }

  std::optional<std::string> why_not(const AttentionProblem& p, Direction) const override {
    if (p.q.device.type != DeviceType::cuda) return "runs on GPUs only";
    if (std::max(p.q.shape[0] * p.heads(), p.batch()) > 1 << 30)
      return "more heads or sequences than 32 bits count";
    return std::nullopt;
  }

  std::int64_t workspace_bytes(const Context& ctx, const AttentionProblem& problem,
                               Direction direction) const override {
    if (stored_in_16_bits(problem)) return widened_workspace_bytes(*this, ctx, problem, direction);
    return ReferenceLayout(problem, direction).bytes;
  }

  void forward(const Context& ctx, const AttentionProblem& problem) const override {
    run(ctx, problem, Direction::forward);
  }
  void backward(const Context& ctx, const AttentionProblem& problem) const override {
    run(ctx, problem, Direction::backward);
  }

 private:
  void run(const Context& ctx, const AttentionProblem& problem, Direction direction) const {
    prepare(*this, ctx, problem, direction);
    QF_EXPECTS(ctx.device == problem.q.device);
    if (stored_in_16_bits(problem)) return run_widened(*this, ctx, problem, direction);
    const CurrentDevice current(ctx.device);
    dispatch_floating(problem.q.dtype, [&]<class T>() {
      Run<T> call(ctx, problem, direction);
      if (direction == Direction::forward)
        call.forward();
      else
        call.backward();
    });
  }
};

}  // namespace

const AttentionImplementation& reference_implementation() {
  static const Reference reference;
  return reference;
}

}  // namespace quietformer::cuda
