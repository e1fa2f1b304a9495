#include "layers/vocabulary_head.h"

#include "layers/cross_entropy.h"
#include "layers/linear.h"
#include "layers/rows.h"

namespace quietformer {

VocabularyHead::VocabularyHead(const ParameterList& parameters, const Parameter& weight,
                               const Parameter& bias, std::int64_t vocab, std::int64_t dim)
    : weight_(weight), bias_(bias), vocab_(vocab), dim_(dim), dtype_(parameters.dtype()) {
  const std::int64_t padding =
      parameters.device().type == DeviceType::cuda ? kRowPadding : std::int64_t{1};
  columns_ = (vocab + padding - 1) / padding * padding;
}

void VocabularyHead::declare(Arena& arena, BatchShape shape) {
  const DType sums = accumulation_dtype(dtype_);
  logits_ = arena.declare("logits", dtype_, {shape.rows(), columns_});
  loss_ = arena.declare("loss", DType::f64, {2});
  row_loss_ = arena.declare("token_loss", sums, {shape.rows()});
  row_lse_ = arena.declare("token_lse", sums, {shape.rows()});
}

/// A parameter or gradient with its padding, absent for none.
Tensor VocabularyHead::padded(const Slot& slot) const {
  if (!slot) return {};
  const Tensor t = slot;
  return Tensor(t.data, t.dtype, t.shape.rank == 2 ? Shape{columns_, dim_} : Shape{columns_},
                t.device);
}

Tensor VocabularyHead::padded_logits(std::int64_t rows) const {
  return fit(logits_, {rows, columns_});
}

Tensor VocabularyHead::logits(std::int64_t rows) const {
  return padded_logits(rows).slice(1, 0, vocab_);
}

Tensor VocabularyHead::forward(const Context& ctx, const Tensor& features, LogitRows rows) {
  features_ = features;
  const BatchShape shape{features.shape[0], features.shape[1]};
  Tensor in = features.reshape({shape.rows(), dim_});
  if (rows == LogitRows::last) {  // every T-th row, from the T-th on
    in = in.slice(0, shape.tokens - 1, shape.rows() - shape.tokens + 1);
    in.shape[0] = shape.batch;
    in.stride[0] *= shape.tokens;
  }
  linear_forward(ctx, padded_logits(in.shape[0]), operand(ctx, hook_, "head.input", in),
                 padded(weight_.value), padded(bias_.value));
  Tensor out = logits(in.shape[0]);
  out.shape = {shape.batch, in.shape[0] / shape.batch, vocab_};
  out.stride = {out.shape[1] * columns_, columns_, 1};
  return out;
}

void VocabularyHead::cross_entropy(const Context& ctx, const Tensor& features,
                                   const Tensor& targets, const LossScale* gradient) {
  forward(ctx, features, LogitRows::all);
  targets_ = targets;
  const Shape rows{targets.count()};
  const Tensor out = logits(rows[0]);
  cross_entropy_forward(
      ctx, loss_, fit(row_loss_, rows), fit(row_lse_, rows), out, targets,
      gradient == nullptr ? LossGradient() : LossGradient{out, gradient->scale, gradient->dynamic});
}

void VocabularyHead::forward_loss(const Context& ctx, const Tensor& features,
                                  const Tensor& targets) {
  cross_entropy(ctx, features, targets, nullptr);
}

void VocabularyHead::forward_loss_gradient(const Context& ctx, const Tensor& features,
                                           const Tensor& targets, const LossScale& scale) {
  cross_entropy(ctx, features, targets, &scale);
}

Tensor VocabularyHead::token_losses() const {
  return fit(row_loss_, targets_.shape);
}

void VocabularyHead::loss_gradient(const Context& ctx, double scale) {
  QF_EXPECTS(targets_);
  const Shape rows{targets_.count()};
  const Tensor out = logits(rows[0]);
  cross_entropy_backward(ctx, out, out, targets_, loss_, fit(row_lse_, rows), scale);
}

void VocabularyHead::backward(const Context& ctx, const Tensor& d_features) {
  const Tensor d_logits = padded_logits(targets_.count());
  linear_backward_parameters(ctx, padded(weight_.grad), padded(bias_.grad), d_logits, features_);
  linear_backward_input(ctx, d_features, d_logits, padded(weight_.value));
}

}  // namespace quietformer
