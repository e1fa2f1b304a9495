// RoBERTa with its masked-token head. Positions count the tokens that are no padding and begin
// behind the padding's own row, so max_position_embeddings is context + pad_token_id + 1.
#include <fmt/format.h>

#include "train/hf/encoder.h"

namespace quietformer {
namespace {

void read_config(const HfConfig& config, ModelConfig& model, AttentionConfig& attention) {
  read_encoder_config(config, model, attention);
  model.type = "roberta";
  model.padding_token = config.index("pad_token_id", 1);
  const std::int64_t rows = config.integer("max_position_embeddings", 512);
  if (rows <= model.padding_token + 1)
    config.refuse("max_position_embeddings",
                  fmt::format("{} or more with pad_token_id {}", model.padding_token + 2,
                              model.padding_token));
  model.context = rows - model.padding_token - 1;
}

void write_config(const ModelConfig& model, const AttentionConfig& attention, HfConfig& config) {
  write_encoder_config(kHfRoberta, model, attention, config);
  config.set("max_position_embeddings", model.context + model.padding_token + 1);
}

bool resembles(const ModelConfig& model) {
  return model.type == "roberta";
}

}  // namespace

const HfArchitecture kHfRoberta{
    "roberta",
    "RobertaForMaskedLM",
    encoder_tensors("roberta.",
                    {"lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias"}),
    read_config,
    write_config,
    resembles};

}  // namespace quietformer
