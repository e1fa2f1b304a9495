#include "layers/gpt.h"

#include <fmt/format.h>

#include "layers/cross_entropy.h"
#include "layers/initialisation.h"
#include "layers/rows.h"

namespace quietformer {
namespace {

ModelConfig checked(ModelConfig model, const AttentionConfig& attention) {
  validate(model, attention);
  resolve(model);
  return model;
}

Embedding::Description embedding_of(const ModelConfig& model) {
  Embedding::Description description;
  description.vocab = model.vocab;
  description.dim = model.dim;
  description.context = model.context;
  description.init = Init::normal(model.init_std);
  switch (find_position(model.position)) {
    case PositionKind::learned:
      description.positions = Embedding::Positions::learned;
      break;
    case PositionKind::sinusoidal:
      description.positions = Embedding::Positions::sinusoidal;
      break;
    case PositionKind::rotary:  // acts inside attention
    case PositionKind::none:
      break;
  }
  return description;
}

}  // namespace

Gpt::Gpt(const ModelConfig& model, const AttentionConfig& attention, ParameterList& parameters)
    : model_(checked(model, attention)),
      dtype_(parameters.dtype()),
      dropout_{model_.dropout, 0, DropoutSite::embedding},
      embedding_(parameters, embedding_of(model_)) {
  if (find_position(model_.position) == PositionKind::rotary)
    rotary_.emplace(parameters.master_dtype(), model_, attention, parameters.device());
  blocks_.reserve(static_cast<std::size_t>(model_.layers));
  for (std::int64_t layer = 0; layer < model_.layers; ++layer)
    blocks_.emplace_back(parameters, fmt::format("blocks.{}", layer), model_, attention,
                         static_cast<std::uint32_t>(layer), rotary_ ? &*rotary_ : nullptr);
  if (find_norm_structure(model_.norm_structure) != NormStructure::post)
    norm_.emplace(parameters, "norm", find_norm(model_.norm), model_.dim, model_.norm_eps);
  const std::int64_t padding =
      parameters.device().type == DeviceType::cuda ? kRowPadding : std::int64_t{1};
  columns_ = (model_.vocab + padding - 1) / padding * padding;
  head_ = model_.tied ? embedding_.tokens()
                      : parameters.add("head.weight", {model_.vocab, model_.dim},
                                       projection_init(model_, Projection::inner, model_.dim,
                                                       model_.vocab, 1.0));
}

void Gpt::declare(const Context& ctx, Arena& arena, BatchShape shape, Purpose purpose) {
  QF_EXPECTS(residuals_.empty() && shape.tokens <= model_.context);
  declared_ = shape;
  const Shape stream{shape.rows(), model_.dim};
  for (std::size_t i = 0; i <= blocks_.size(); ++i)
    residuals_.push_back(declare_saved(arena, purpose,
                                       i == 0 ? "embedding" : fmt::format("blocks.{}", i - 1),
                                       "residual", dtype_, stream));
  for (Block& block : blocks_) block.declare(ctx, arena, shape, purpose);
  if (norm_) {
    norm_->declare(arena, shape.rows(), purpose);
    normed_ = declare_saved(arena, purpose, "norm", "normed", dtype_, stream);
  }
  logits_ = arena.declare("logits", dtype_, {shape.rows(), columns_});
  loss_ = arena.declare("loss", DType::f64, {2});
  row_loss_ = arena.declare("token_loss", accumulation_dtype(dtype_), {shape.rows()});
  row_lse_ = arena.declare("token_lse", accumulation_dtype(dtype_), {shape.rows()});
  if (purpose == Purpose::inference) return;
  gradient_ = arena.declare_shared("d_residual", dtype_, stream);
  d_input_ = arena.declare_shared("d_input", dtype_, stream);
}

Tensor Gpt::residual(std::size_t index, BatchShape shape) const {
  return fit(residuals_[index], {shape.batch, shape.tokens, model_.dim});
}

/// What reads the output of a block first.
FollowingNorm Gpt::following(std::size_t block, BatchShape shape) {
  if (block + 1 < blocks_.size()) return blocks_[block + 1].following(shape);
  if (!norm_) return {};
  return {&*norm_, fit(normed_, {shape.batch, shape.tokens, model_.dim})};
}

/// The head's weight or gradient with its padding, and logits to go with it.
Tensor Gpt::padded_head(const Slot& slot) const {
  const Tensor head = slot;
  return Tensor(head.data, head.dtype, {columns_, model_.dim}, head.device);
}

Tensor Gpt::padded_logits(std::int64_t rows) const {
  return fit(logits_, {rows, columns_});
}

Tensor Gpt::logits_of(std::int64_t rows) const {
  return padded_logits(rows).slice(1, 0, model_.vocab);
}

Tensor Gpt::forward(const Context& ctx, const Tensor& tokens, LogitRows rows) {
  QF_EXPECTS(tokens.shape.rank == 2);
  QF_EXPECTS(tokens.shape[0] <= declared_.batch && tokens.shape[1] <= declared_.tokens);
  const BatchShape shape{tokens.shape[0], tokens.shape[1]};
  Tensor x = residual(0, shape);
  embedding_.forward(ctx, x, tokens);
  record(ctx, embedding_name_, x);
  dropout_apply(ctx, dropout_, x, x);
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    const Tensor y = residual(i + 1, shape);
    blocks_[i].forward(ctx, y, x, following(i, shape));
    x = y;
  }
  features_ = x;
  if (norm_) features_ = fit(normed_, x.shape);  // written with the last block's output
  Tensor in = features_.reshape({shape.rows(), model_.dim});
  if (rows == LogitRows::last) {  // every T-th row, from the T-th on
    in = in.slice(0, shape.tokens - 1, shape.rows() - shape.tokens + 1);
    in.shape[0] = shape.batch;
    in.stride[0] *= shape.tokens;
  }
  linear_forward(ctx, padded_logits(in.shape[0]), in, padded_head(head_.value), {});
  Tensor logits = logits_of(in.shape[0]);
  logits.shape = {shape.batch, in.shape[0] / shape.batch, model_.vocab};
  logits.stride = {logits.shape[1] * columns_, columns_, 1};
  return logits;
}

void Gpt::forward_loss(const Context& ctx, const Tensor& tokens, const Tensor& targets) {
  forward(ctx, tokens);
  targets_ = targets;
  const Shape rows{targets.count()};
  cross_entropy_forward(ctx, loss_, fit(row_loss_, rows), fit(row_lse_, rows), logits_of(rows[0]),
                        targets);
}

void Gpt::forward_backward(const Context& ctx, const Tensor& tokens, const Tensor& targets,
                           const LossScale& scale) {
  QF_EXPECTS(gradient_);
  forward(ctx, tokens);
  targets_ = targets;
  const Shape rows{targets.count()};
  const Tensor logits = logits_of(rows[0]);
  cross_entropy_forward(ctx, loss_, fit(row_loss_, rows), fit(row_lse_, rows), logits, targets,
                        {logits, scale.scale, scale.dynamic});
  backward_from_logits(ctx);
}

Tensor Gpt::token_losses() const {
  return fit(row_loss_, targets_.shape);
}

void Gpt::backward(const Context& ctx, double loss_scale) {
  QF_EXPECTS(gradient_ && targets_);
  const Shape rows{targets_.count()};
  const Tensor logits = logits_of(rows[0]);
  cross_entropy_backward(ctx, logits, logits, targets_, loss_, fit(row_lse_, rows), loss_scale);
  backward_from_logits(ctx);
}

/// The logits hold their gradient.
void Gpt::backward_from_logits(const Context& ctx) {
  const Tensor logits = padded_logits(targets_.count()), head = padded_head(head_.value);
  linear_backward_parameters(ctx, padded_head(head_.grad), {}, logits, features_);
  const Tensor gradient = fit(gradient_, features_.shape);
  if (norm_) {
    const Tensor d_features = fit(d_input_, features_.shape);
    linear_backward_input(ctx, d_features, logits, head);
    norm_->backward(ctx, gradient, d_features);
  } else {
    linear_backward_input(ctx, gradient, logits, head);
  }
  for (std::size_t i = blocks_.size(); i-- > 0;) blocks_[i].backward(ctx, gradient);
  dropout_apply(ctx, dropout_, gradient, gradient);
  embedding_.backward(ctx, gradient);
}

void Gpt::set_schedule_step(const Context& ctx, std::int64_t step) {
  for (Block& block : blocks_) block.set_schedule_step(ctx, step);
}

void Gpt::set_schedule_step(std::int64_t step) {
  for (Block& block : blocks_) block.set_schedule_step(step);
}

}  // namespace quietformer
