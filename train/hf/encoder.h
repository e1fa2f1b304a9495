// What bert.cpp and roberta.cpp share: post-norm encoders that differ in names and positions.
#pragma once

#include <string>

#include "train/hf/architecture.h"

namespace quietformer {

/// Everything but model.type, model.context and model.padding_token; and back, everything but
/// max_position_embeddings.
void read_encoder_config(const HfConfig& config, ModelConfig& model, AttentionConfig& attention);
void write_encoder_config(const HfArchitecture& architecture, const ModelConfig& model,
                          const AttentionConfig& attention, HfConfig& config);

/// Names of the parts of a masked-token head, without ".weight" and ".bias".
struct EncoderHead {
  std::string dense, norm, decoder;
  std::string bias;  // the whole name
};
TensorMap encoder_tensors(const std::string& prefix, const EncoderHead& head);

}  // namespace quietformer
