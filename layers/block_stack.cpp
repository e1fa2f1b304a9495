#include "layers/block_stack.h"

#include <fmt/format.h>

#include <algorithm>

#include "layers/rows.h"

namespace quietformer {

BlockStack::BlockStack(ParameterList& parameters, const ModelConfig& model,
                       const AttentionConfig& attention)
    : dim_(model.dim), dtype_(parameters.dtype()) {
  std::vector<AttentionConfig> settings;
  for (std::int64_t layer = 0; layer < model.layers; ++layer)
    settings.push_back(attention.of_layer(layer));
  if (find_position(model.position) == PositionKind::rotary) {
    // Piecewise layers share a threshold, and others read nothing that depends on it.
    const auto piecewise = std::find_if(
        settings.begin(), settings.end(),
        [](const AttentionConfig& layer) { return find_score(layer.score) == Score::piecewise; });
    rotary_.emplace(parameters.master_dtype(), model,
                    piecewise == settings.end() ? settings[0] : *piecewise, parameters.device());
  }
  blocks_.reserve(settings.size());
  for (std::size_t layer = 0; layer < settings.size(); ++layer)
    blocks_.emplace_back(parameters, fmt::format("blocks.{}", layer), model, settings[layer],
                         static_cast<std::uint32_t>(layer), rotary_ ? &*rotary_ : nullptr);
  if (find_norm_structure(model.norm_structure) != NormStructure::post)
    norm_.emplace(parameters, "norm", find_norm(model.norm), model.dim, model.norm_eps);
}

void BlockStack::declare(const Context& ctx, Arena& arena, BatchShape shape, Purpose purpose) {
  const Shape stream{shape.rows(), dim_};
  for (std::size_t i = 0; i <= blocks_.size(); ++i)
    residuals_.push_back(declare_saved(arena, purpose,
                                       i == 0 ? "embedding" : fmt::format("blocks.{}", i - 1),
                                       "residual", dtype_, stream));
  for (Block& block : blocks_) block.declare(ctx, arena, shape, purpose);
  if (norm_) {
    norm_->declare(arena, shape.rows(), purpose);
    normed_ = declare_saved(arena, purpose, "norm", "normed", dtype_, stream);
  }
  if (purpose == Purpose::inference) return;
  gradient_ = arena.declare_shared("d_residual", dtype_, stream);
  if (norm_) d_normed_ = arena.declare_shared("d_input", dtype_, stream);
}

Tensor BlockStack::sized(const Slot& slot, BatchShape shape) const {
  return fit(slot, {shape.batch, shape.tokens, dim_});
}

/// What reads the output of a block first.
FollowingNorm BlockStack::following(std::size_t block, BatchShape shape) {
  if (block + 1 < blocks_.size()) return blocks_[block + 1].following(shape);
  if (!norm_) return {};
  return {&*norm_, sized(normed_, shape)};
}

Tensor BlockStack::forward(const Context& ctx, BatchShape shape, const Tensor& key_padding) {
  for (std::size_t i = 0; i < blocks_.size(); ++i)
    blocks_[i].forward(ctx, residual(i + 1, shape), residual(i, shape), key_padding,
                       following(i, shape));
  // The norm was written with the last block's output.
  return norm_ ? sized(normed_, shape) : residual(blocks_.size(), shape);
}

Tensor BlockStack::d_output(BatchShape shape) const {
  return sized(norm_ ? d_normed_ : gradient_, shape);
}

Tensor BlockStack::backward(const Context& ctx, BatchShape shape) {
  const Tensor gradient = sized(gradient_, shape);
  if (norm_) norm_->backward(ctx, gradient, sized(d_normed_, shape));
  for (std::size_t i = blocks_.size(); i-- > 0;) blocks_[i].backward(ctx, gradient);
  return gradient;
}

void BlockStack::set_schedule_step(const Context& ctx, std::int64_t step) {
  for (Block& block : blocks_) block.set_schedule_step(ctx, step);
}

void BlockStack::set_schedule_step(std::int64_t step) {
  for (Block& block : blocks_) block.set_schedule_step(step);
}

}  // namespace quietformer
