// A decoder-only language model: tokens in, logits of the next token out.
#pragma once

#include "layers/embedding.h"
#include "layers/language_model.h"

namespace quietformer {

/// Token embedding (+ positions, dropout), blocks, final norm, head without bias. The structure
/// `post` has no final norm: its blocks end in one. Parameters, in order:
///   token_embedding.weight  position_embedding.weight  blocks.N...  norm.weight/bias  head.weight
/// (head.weight only when not tied). model.bias false leaves out the biases of linear layers;
/// layernorm keeps its own. Batches have no token types and no padding.
class Gpt final : public LanguageModel {
 public:
  Gpt(const ModelConfig& model, const AttentionConfig& attention, ParameterList& parameters);

 private:
  void declare_ends(Arena&, BatchShape, Purpose) override {}
  void embed(const Context& ctx, const Tensor& x, const TokenBatch& batch) override;
  void embed_backward(const Context& ctx, const Tensor& gradient) override;

  Embedding embedding_;
};

}  // namespace quietformer
