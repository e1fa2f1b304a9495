#include "layers/encoder_embedding.h"

#include <fmt/format.h>

#include "layers/position.h"
#include "layers/residual.h"
#include "layers/rows.h"

namespace quietformer {
namespace {

Embedding::Description without_positions(const ModelConfig& model, bool counts_tokens) {
  Embedding::Description description = embedding_of(model);
  if (counts_tokens) description.positions = Embedding::Positions::none;
  return description;
}

/// A GPU gives NaN instead.
void check_types(const Context& ctx, const Tensor& types, std::int64_t count) {
  if (ctx.device.type == DeviceType::cuda) return;
  for (std::int64_t i = 0; i < types.count(); ++i)
    if (const std::int32_t type = types.as<std::int32_t>()[i]; type < 0 || type >= count)
      throw InputError(fmt::format("token type {}: found {}, expected 0 to {} (model.token_types)",
                                   i, type, count - 1));
}

}  // namespace

EncoderEmbedding::EncoderEmbedding(ParameterList& parameters, const ModelConfig& model)
    : dim_(model.dim),
      token_types_(model.token_types),
      padding_token_(model.padding_token),
      dtype_(parameters.dtype()),
      counts_tokens_(find_model(model.type) == ModelKind::roberta),
      embedding_(parameters, without_positions(model, counts_tokens_)),
      positions_(counts_tokens_ ? parameters.add("position_embedding.weight",
                                                 {model.context + padding_token_ + 1, dim_},
                                                 Init::normal(model.init_std))
                                : Parameter()),
      types_(token_types_ > 0 ? parameters.add("token_type_embedding.weight", {token_types_, dim_},
                                               Init::normal(model.init_std))
                              : Parameter()),
      norm_(parameters, "embedding_norm", find_norm(model.norm), dim_, model.norm_eps) {}

void EncoderEmbedding::declare(Arena& arena, BatchShape shape, Purpose purpose) {
  const Shape stream{shape.rows(), dim_}, ids{shape.rows()};
  sum_ = declare_saved(arena, purpose, path_, "sum", dtype_, stream);
  norm_.declare(arena, shape.rows(), purpose);
  if (counts_tokens_) position_ids_ = arena.declare("position_ids", DType::i32, ids);
  if (token_types_ > 0) type_zero_ = arena.declare("token_types", DType::i32, ids);
  if (counts_tokens_ || token_types_ > 0)
    part_ = arena.declare_shared("embedding_part", dtype_, stream);
}

void EncoderEmbedding::forward(const Context& ctx, const Tensor& y, const Tensor& tokens,
                               const Tensor& token_types) {
  QF_EXPECTS(!token_types || token_types_ > 0);
  const Tensor sum = fit(sum_, y.shape);
  embedding_.forward(ctx, sum, tokens);
  if (counts_tokens_) {
    const Tensor part = fit(part_, y.shape);
    positions_in_ = fit(position_ids_, tokens.shape);
    padding_positions(ctx, positions_in_, tokens, static_cast<std::int32_t>(padding_token_));
    embedding_forward(ctx, part, positions_in_, positions_.value, {});
    residual_forward(ctx, sum, sum, part, 1, {});
  }
  if (token_types_ == 0) return norm_.forward(ctx, y, sum);
  const Tensor part = fit(part_, y.shape);
  types_in_ = token_types ? token_types : fit(type_zero_, tokens.shape);
  check_types(ctx, types_in_, token_types_);
  embedding_forward(ctx, part, types_in_, types_.value, {});
  norm_.forward(ctx, y, Join{sum, part, sum, 1, {}, {}});
}

void EncoderEmbedding::backward(const Context& ctx, const Tensor& dy) {
  norm_.backward(ctx, dy, dy);
  embedding_.backward(ctx, dy);
  if (counts_tokens_) embedding_backward(ctx, positions_.grad, {}, dy, positions_in_);
  if (token_types_ > 0) embedding_backward(ctx, types_.grad, {}, dy, types_in_);
}

}  // namespace quietformer
