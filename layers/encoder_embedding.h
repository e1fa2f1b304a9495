// The embedding of BERT and RoBERTa.
#pragma once

#include <cstdint>
#include <string>

#include "layers/embedding.h"
#include "layers/norm.h"

namespace quietformer {

/// y = norm(token + position + token type). Parameters, in order: those of Embedding;
/// `token_type_embedding.weight` (model.token_types, C) unless that is 0; `embedding_norm`.
///
/// model.type bert: token t sits at position t. roberta: positions go by padding_positions(), and
/// position_embedding.weight has model.context + model.padding_token + 1 rows.
class EncoderEmbedding {
 public:
  /// `model` is resolved.
  EncoderEmbedding(ParameterList& parameters, const ModelConfig& model);
  void declare(Arena& arena, BatchShape shape, Purpose purpose);
  /// tokens i32 (B,T); token_types i32 (B,T), absent: all 0; both as they are until backward. y
  /// (B,T,C). InputError for an id or type that there is none of (on a GPU: NaN).
  void forward(const Context& ctx, const Tensor& y, const Tensor& tokens,
               const Tensor& token_types);
  /// dy may be overwritten.
  void backward(const Context& ctx, const Tensor& dy);

  const Parameter& tokens() const { return embedding_.tokens(); }

 private:
  std::string path_ = "embedding";
  std::int64_t dim_, token_types_, padding_token_;
  DType dtype_;
  bool counts_tokens_;  // roberta
  Embedding embedding_;
  Parameter positions_, types_;  // positions_: roberta's
  Norm norm_;
  Slot sum_, position_ids_;         // saved
  Slot type_zero_;                  // zeros
  Slot part_;                       // shared
  Tensor types_in_, positions_in_;  // of the last forward
};

}  // namespace quietformer
