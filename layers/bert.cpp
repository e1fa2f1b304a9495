#include "layers/bert.h"

#include "layers/activation.h"
#include "layers/initialisation.h"
#include "layers/rows.h"

namespace quietformer {

Bert::Bert(const ModelConfig& model, const AttentionConfig& attention, ParameterList& parameters)
    : LanguageModel(model, attention),
      dtype_(parameters.dtype()),
      form_(find_mlp(config().mlp) == MlpKind::gelu ? GeluForm::tanh : GeluForm::erf),
      embedding_(parameters, config()) {
  const std::int64_t dim = config().dim, vocab = config().vocab;
  const auto init = [&](std::int64_t out) {
    return projection_init(config(), Projection::inner, dim, out, 1.0);
  };
  add_blocks(parameters, attention);
  dense_.emplace(parameters, path_ + ".dense", dim, dim, config().bias ? Bias::yes : Bias::no,
                 init(dim));
  norm_.emplace(parameters, path_ + ".norm", find_norm(config().norm), dim, config().norm_eps);
  const Parameter weight = config().tied
                               ? embedding_.tokens()
                               : parameters.add(path_ + ".weight", {vocab, dim}, init(vocab));
  Parameter bias;
  if (config().bias)
    bias = parameters.add(path_ + ".bias", {vocab}, Init::constant(0), RowPadding::yes);
  add_head(parameters, weight, bias);
}

void Bert::declare_ends(Arena& arena, BatchShape shape, Purpose purpose) {
  const Shape stream{shape.rows(), config().dim};
  embedding_.declare(arena, shape, purpose);
  dense_out_ = declare_saved(arena, purpose, path_, "dense", dtype_, stream);
  active_ = declare_saved(arena, purpose, path_, "active", dtype_, stream);
  norm_->declare(arena, shape.rows(), purpose);
  normed_ = declare_saved(arena, purpose, path_, "normed", dtype_, stream);
  if (purpose == Purpose::training) d_normed_ = arena.declare_shared("d_input", dtype_, stream);
}

void Bert::embed(const Context& ctx, const Tensor& x, const TokenBatch& batch) {
  embedding_.forward(ctx, x, batch.tokens, batch.token_types);
}

void Bert::embed_backward(const Context& ctx, const Tensor& gradient) {
  embedding_.backward(ctx, gradient);
}

Tensor Bert::read_out(const Context& ctx, const Tensor& x) {
  const Tensor active = fit(active_, x.shape), normed = fit(normed_, x.shape);
  dense_->forward_gelu(ctx, form_, active, fit(dense_out_, x.shape), x);
  norm_->forward(ctx, normed, active);
  return normed;
}

void Bert::read_out_backward(const Context& ctx, VocabularyHead& head, const Tensor& d_x) {
  const Tensor gradient = fit(d_normed_, d_x.shape);  // of one after the other
  head.backward(ctx, gradient);
  norm_->backward(ctx, gradient, gradient);
  gelu_backward(ctx, form_, gradient, gradient, fit(dense_out_, d_x.shape));
  dense_->backward(ctx, d_x, gradient);
}

}  // namespace quietformer
