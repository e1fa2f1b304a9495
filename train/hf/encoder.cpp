#include "train/hf/encoder.h"

#include <fmt/format.h>

namespace quietformer {

void read_encoder_config(const HfConfig& config, ModelConfig& model, AttentionConfig& attention) {
  config.expect_off("is_decoder");
  config.expect_off("add_cross_attention");
  if (config.text("position_embedding_type", "absolute") != "absolute")
    config.refuse("position_embedding_type", "absolute: not supported");
  model.layers = config.integer("num_hidden_layers");
  model.heads = model.kv_heads = config.integer("num_attention_heads");
  model.dim = config.integer("hidden_size");
  model.vocab = config.integer("vocab_size");
  model.token_types = config.integer("type_vocab_size", 2);
  const std::string activation = config.text("hidden_act", "gelu");
  if (activation != "gelu" && activation != "gelu_new" && activation != "gelu_pytorch_tanh")
    config.refuse("hidden_act", "gelu, gelu_new or gelu_pytorch_tanh");
  model.mlp = activation == "gelu" ? "gelu_erf" : "gelu";
  model.mlp_dim = config.integer("intermediate_size");
  model.norm = "layernorm";
  model.norm_structure = "post";
  model.deepnet = false;
  model.position = "learned";
  model.bias = true;
  model.tied = config.flag("tie_word_embeddings", true);
  model.qk_norm = "none";
  model.layer_scale = 0;
  model.dropout = config.number("hidden_dropout_prob", 0.1);
  model.norm_eps = config.number("layer_norm_eps", 1e-12);
  model.init_std = config.number("initializer_range", 0.02);
  attention.causal = false;
  attention.dropout = config.number("attention_probs_dropout_prob", 0.1);
}

void write_encoder_config(const HfArchitecture& architecture, const ModelConfig& model,
                          const AttentionConfig& attention, HfConfig& config) {
  const auto expect = [&](std::string_view key, std::string_view found, std::string_view expected) {
    expect_value(architecture, key, found, expected);
  };
  const auto word = [](bool value) { return value ? "true" : "false"; };
  expect("model.type", model.type, architecture.name);
  expect("model.position", model.position, "learned");
  expect("model.norm", model.norm, "layernorm");
  expect("model.norm_structure", model.norm_structure, "post");
  expect("model.deepnet", word(model.deepnet), "false");
  expect("model.bias", word(model.bias), "true");
  expect("model.qk_norm", model.qk_norm, "none");
  expect("model.layer_scale", fmt::format("{}", model.layer_scale), "0");
  expect("model.kv_heads", fmt::format("{}", model.kv_heads), fmt::format("{}", model.heads));
  if (model.token_types == 0) expect("model.token_types", "0", "1 or more");
  if (model.mlp != "gelu") expect("model.mlp", model.mlp, "gelu_erf");
  config.set("num_hidden_layers", model.layers);
  config.set("num_attention_heads", model.heads);
  config.set("hidden_size", model.dim);
  config.set("vocab_size", model.vocab);
  config.set("type_vocab_size", model.token_types);
  config.set("pad_token_id", model.padding_token);
  config.set("intermediate_size", model.mlp_dim);
  // gelu_pytorch_tanh, which the source may have said, is gelu_new.
  if (model.mlp == "gelu_erf")
    config.set("hidden_act", "gelu");
  else if (config.text("hidden_act", "") != "gelu_pytorch_tanh")
    config.set("hidden_act", "gelu_new");
  config.set("tie_word_embeddings", model.tied);
  config.set("hidden_dropout_prob", model.dropout);
  config.set("attention_probs_dropout_prob", attention.dropout);
  config.set("layer_norm_eps", model.norm_eps);
  config.set("initializer_range", model.init_std);
}

TensorMap encoder_tensors(const std::string& prefix, const EncoderHead& head) {
  TensorMap map;
  const auto both = [&](const std::string& ours, const std::vector<std::string>& theirs) {
    for (const std::string kind : {".weight", ".bias"}) {
      TensorRule rule{ours + kind, theirs};
      for (std::string& name : rule.theirs) name += kind;
      map.rules.push_back(std::move(rule));
    }
  };
  const std::string embeddings = prefix + "embeddings.", layer = prefix + "encoder.layer.*.";
  const std::string attention = layer + "attention.self.";
  map.rules = {
      {"token_embedding.weight", {embeddings + "word_embeddings.weight"}},
      {"position_embedding.weight", {embeddings + "position_embeddings.weight"}},
      {"token_type_embedding.weight", {embeddings + "token_type_embeddings.weight"}},
      {"head.weight", {head.decoder + ".weight"}},
      {"head.bias", {head.bias}},
  };
  both("embedding_norm", {embeddings + "LayerNorm"});
  both("blocks.*.attention.qkv", {attention + "query", attention + "key", attention + "value"});
  both("blocks.*.attention.out", {layer + "attention.output.dense"});
  both("blocks.*.norm1", {layer + "attention.output.LayerNorm"});
  both("blocks.*.mlp.up", {layer + "intermediate.dense"});
  both("blocks.*.mlp.down", {layer + "output.dense"});
  both("blocks.*.norm2", {layer + "output.LayerNorm"});
  both("head.dense", {head.dense});
  both("head.norm", {head.norm});
  map.prefixes = {prefix};
  map.ignored = {embeddings + "position_ids", embeddings + "token_type_ids"};
  map.repeated = {{head.decoder + ".weight", embeddings + "word_embeddings.weight"},
                  {head.decoder + ".bias", head.bias}};
  map.renamed = {{"LayerNorm.gamma", "LayerNorm.weight"}, {"LayerNorm.beta", "LayerNorm.bias"}};
  return map;
}

}  // namespace quietformer
