// Encoders that guess masked tokens: BERT (Devlin et al., arXiv 1810.04805) and RoBERTa (Liu et
// al., arXiv 1907.11692).
#pragma once

#include <optional>
#include <string>

#include "layers/encoder_embedding.h"
#include "layers/language_model.h"

namespace quietformer {

/// Embedding with its norm, blocks without a causal order (a final norm unless norm_structure is
/// post), then logits = norm(gelu(dense(x))) W^T + b with W the token embedding or the head's own.
/// Batches may have token types, and padding, which no token attends to. Parameters, in order:
///   those of EncoderEmbedding  blocks.N...  norm.weight/bias  head.dense.weight/bias
///   head.norm.weight/bias  head.weight (not tied)  head.bias
/// model.bias false leaves out the biases of linear layers, head.bias among them.
/// Their names in transformers' hidden_states: 0 is the probe "embedding" (without dropout), k + 1
/// is "blocks.k.output".
class Bert final : public LanguageModel {
 public:
  Bert(const ModelConfig& model, const AttentionConfig& attention, ParameterList& parameters);

 private:
  void declare_ends(Arena& arena, BatchShape shape, Purpose purpose) override;
  void embed(const Context& ctx, const Tensor& x, const TokenBatch& batch) override;
  void embed_backward(const Context& ctx, const Tensor& gradient) override;
  Tensor read_out(const Context& ctx, const Tensor& x) override;
  void read_out_backward(const Context& ctx, VocabularyHead& head, const Tensor& d_x) override;
  void set_read_out_hook(OperandHook* hook) override { dense_->set_operand_hook(hook); }

  std::string path_ = "head";
  DType dtype_;
  GeluForm form_;
  EncoderEmbedding embedding_;
  std::optional<Linear> dense_;
  std::optional<Norm> norm_;
  Slot dense_out_, active_, normed_;  // saved
  Slot d_normed_;                     // shared
};

}  // namespace quietformer
