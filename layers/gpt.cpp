#include "layers/gpt.h"

#include "layers/initialisation.h"

namespace quietformer {

Gpt::Gpt(const ModelConfig& model, const AttentionConfig& attention, ParameterList& parameters)
    : LanguageModel(model, attention), embedding_(parameters, embedding_of(config())) {
  add_blocks(parameters, attention);
  add_head(parameters, config().tied
                           ? embedding_.tokens()
                           : parameters.add("head.weight", {config().vocab, config().dim},
                                            projection_init(config(), Projection::inner,
                                                            config().dim, config().vocab, 1.0)));
}

void Gpt::embed(const Context& ctx, const Tensor& x, const TokenBatch& batch) {
  QF_EXPECTS(!batch.token_types && !batch.valid);
  embedding_.forward(ctx, x, batch.tokens);
}

void Gpt::embed_backward(const Context& ctx, const Tensor& gradient) {
  embedding_.backward(ctx, gradient);
}

}  // namespace quietformer
