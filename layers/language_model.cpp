#include "layers/language_model.h"

#include "layers/bert.h"
#include "layers/gpt.h"
#include "layers/rows.h"

namespace quietformer {
namespace {

ModelConfig checked(ModelConfig model, const AttentionConfig& attention) {
  validate(model, attention);
  resolve(model);
  return model;
}

}  // namespace

LanguageModel::LanguageModel(const ModelConfig& model, const AttentionConfig& attention)
    : model_(checked(model, attention)), dropout_{model_.dropout, 0, DropoutSite::embedding} {}

void LanguageModel::add_blocks(ParameterList& parameters, const AttentionConfig& attention) {
  blocks_.emplace(parameters, model_, attention);
}

void LanguageModel::add_head(const ParameterList& parameters, const Parameter& weight,
                             const Parameter& bias) {
  head_.emplace(parameters, weight, bias, model_.vocab, model_.dim);
}

void LanguageModel::declare(const Context& ctx, Arena& arena, BatchShape shape, Purpose purpose) {
  QF_EXPECTS(declared_.rows() == 0 && shape.rows() > 0 && shape.tokens <= model_.context);
  declared_ = shape;
  purpose_ = purpose;
  declare_ends(arena, shape, purpose);
  blocks_->declare(ctx, arena, shape, purpose);
  head_->declare(arena, shape);
}

Tensor LanguageModel::features(const Context& ctx, const TokenBatch& batch) {
  QF_EXPECTS(batch.tokens.shape.rank == 2);
  shape_ = {batch.tokens.shape[0], batch.tokens.shape[1]};
  QF_EXPECTS(shape_.batch <= declared_.batch && shape_.tokens <= declared_.tokens);
  for (const Tensor* optional : {&batch.token_types, &batch.valid})
    QF_EXPECTS(!*optional || optional->shape == batch.tokens.shape);
  const Tensor x = blocks_->input(shape_);
  embed(ctx, x, batch);
  record(ctx, embedding_name_, x);
  dropout_apply(ctx, dropout_, x, x);
  return read_out(ctx, blocks_->forward(ctx, shape_, batch.valid));
}

Tensor LanguageModel::read_out(const Context&, const Tensor& x) {
  return x;
}

void LanguageModel::read_out_backward(const Context& ctx, VocabularyHead& head, const Tensor& d_x) {
  head.backward(ctx, d_x);
}

Tensor LanguageModel::forward(const Context& ctx, const TokenBatch& batch, LogitRows rows) {
  return head_->forward(ctx, features(ctx, batch), rows);
}

void LanguageModel::forward_loss(const Context& ctx, const TokenBatch& batch) {
  head_->forward_loss(ctx, features(ctx, batch), batch.targets);
}

void LanguageModel::forward_backward(const Context& ctx, const TokenBatch& batch,
                                     const LossScale& scale) {
  QF_EXPECTS(purpose_ == Purpose::training);
  head_->forward_loss_gradient(ctx, features(ctx, batch), batch.targets, scale);
  backward_from_logits(ctx);
}

void LanguageModel::backward(const Context& ctx, double loss_scale) {
  QF_EXPECTS(purpose_ == Purpose::training);
  head_->loss_gradient(ctx, loss_scale);
  backward_from_logits(ctx);
}

/// The logits hold their gradient.
void LanguageModel::backward_from_logits(const Context& ctx) {
  read_out_backward(ctx, *head_, blocks_->d_output(shape_));
  const Tensor gradient = blocks_->backward(ctx, shape_);
  dropout_apply(ctx, dropout_, gradient, gradient);
  embed_backward(ctx, gradient);
}

void LanguageModel::set_schedule_step(const Context& ctx, std::int64_t step) {
  blocks_->set_schedule_step(ctx, step);
}

void LanguageModel::set_schedule_step(std::int64_t step) {
  blocks_->set_schedule_step(step);
}

void LanguageModel::set_operand_hook(OperandHook* hook) {
  blocks_->set_operand_hook(hook);
  set_read_out_hook(hook);
  head_->set_operand_hook(hook);
}

std::unique_ptr<LanguageModel> make_model(const ModelConfig& model,
                                          const AttentionConfig& attention,
                                          ParameterList& parameters) {
  if (is_encoder(model)) return std::make_unique<Bert>(model, attention, parameters);
  return std::make_unique<Gpt>(model, attention, parameters);
}

}  // namespace quietformer
