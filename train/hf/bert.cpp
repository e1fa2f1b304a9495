// BERT with its masked-token head. Position t is row t.
#include "train/hf/encoder.h"

namespace quietformer {
namespace {

void read_config(const HfConfig& config, ModelConfig& model, AttentionConfig& attention) {
  read_encoder_config(config, model, attention);
  model.type = "bert";
  model.context = config.integer("max_position_embeddings", 512);
  model.padding_token = config.index("pad_token_id", 0);
}

void write_config(const ModelConfig& model, const AttentionConfig& attention, HfConfig& config) {
  write_encoder_config(kHfBert, model, attention, config);
  config.set("max_position_embeddings", model.context);
}

bool resembles(const ModelConfig& model) {
  return model.type == "bert";
}

}  // namespace

const HfArchitecture kHfBert{
    "bert",
    "BertForMaskedLM",
    encoder_tensors("bert.", {"cls.predictions.transform.dense",
                              "cls.predictions.transform.LayerNorm", "cls.predictions.decoder",
                              "cls.predictions.bias"}),
    read_config,
    write_config,
    resembles};

}  // namespace quietformer
