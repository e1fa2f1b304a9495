// BERT and RoBERTa with their MLM heads: q, k and v in tensors of their own, decoders tied.
#include <fmt/format.h>

#include "train/hf/architecture.h"

namespace quietformer {
namespace {

bool is_roberta(const HfArchitecture& architecture) {
  return &architecture == &kHfRoberta;
}

/// Rows of RoBERTa's table before the first position of a token.
std::int64_t positions_before(const ModelConfig& model) {
  return model.type == "roberta" ? model.padding_token + 1 : 0;
}

void read_config(const HfArchitecture& architecture, const HfConfig& config, ModelConfig& model,
                 AttentionConfig& attention) {
  config.expect_off("is_decoder");
  config.expect_off("add_cross_attention");
  if (!config.object("pruned_heads").is_empty())
    config.refuse("pruned_heads", "none: not supported");
  if (config.text("position_embedding_type", "absolute") != "absolute")
    config.refuse("position_embedding_type", "absolute");
  model.type = architecture.name;
  model.layers = config.integer("num_hidden_layers");
  model.heads = model.kv_heads = config.integer("num_attention_heads");
  model.dim = config.integer("hidden_size");
  model.vocab = config.integer("vocab_size");
  model.token_types = config.integer("type_vocab_size", 2);
  model.padding_token = config.id("pad_token_id", is_roberta(architecture) ? 1 : 0);
  model.context = config.integer("max_position_embeddings") - positions_before(model);
  // RoBERTa's head has the exact GELU whatever the blocks have; ours has theirs.
  const std::string activation = config.text("hidden_act", "gelu");
  const bool tanh = activation == "gelu_new" || activation == "gelu_pytorch_tanh";
  if (activation != "gelu" && (!tanh || is_roberta(architecture)))
    config.refuse("hidden_act",
                  is_roberta(architecture) ? "gelu" : "gelu, gelu_new or gelu_pytorch_tanh");
  model.mlp = tanh ? "gelu" : "gelu_erf";
  model.mlp_dim = config.integer("intermediate_size", 4 * model.dim);
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

void write_config(const HfArchitecture& architecture, const ModelConfig& model,
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
  expect("model.qk_norm", model.qk_norm, "none");
  expect("model.layer_scale", fmt::format("{}", model.layer_scale), "0");
  expect("model.bias", word(model.bias), "true");
  if (model.mlp != "gelu" || is_roberta(architecture)) expect("model.mlp", model.mlp, "gelu_erf");
  expect("model.kv_heads", fmt::format("{}", model.kv_heads), fmt::format("{}", model.heads));
  if (model.token_types == 0) expect("model.token_types", "0", "1 or more");
  config.set("num_hidden_layers", model.layers);
  config.set("num_attention_heads", model.heads);
  config.set("hidden_size", model.dim);
  config.set("vocab_size", model.vocab);
  config.set("type_vocab_size", model.token_types);
  config.set("pad_token_id", model.padding_token);
  config.set("max_position_embeddings", model.context + positions_before(model));
  config.set("intermediate_size", model.mlp_dim);
  // gelu_pytorch_tanh, which the source may have said, is gelu_new.
  const std::string activation = config.text("hidden_act", "");
  if (model.mlp == "gelu_erf")
    config.set("hidden_act", "gelu");
  else if (activation != "gelu_pytorch_tanh")
    config.set("hidden_act", "gelu_new");
  config.set("tie_word_embeddings", model.tied);
  config.set("hidden_dropout_prob", model.dropout);
  config.set("attention_probs_dropout_prob", attention.dropout);
  config.set("layer_norm_eps", model.norm_eps);
  config.set("initializer_range", model.init_std);
}

/// `root` is their name of the encoder, the others' of the parts of the head.
TensorMap tensors(const std::string& root, const std::string& head, const std::string& dense,
                  const std::string& norm) {
  TensorMap map;
  const auto both = [&](const std::string& ours, const std::string& theirs) {
    map.rules.push_back({ours + ".weight", {theirs + ".weight"}});
    map.rules.push_back({ours + ".bias", {theirs + ".bias"}});
  };
  const std::string embeddings = root + ".embeddings.", layer = root + ".encoder.layer.*.";
  map.rules = {
      {"token_embedding.weight", {embeddings + "word_embeddings.weight"}},
      {"position_embedding.weight", {embeddings + "position_embeddings.weight"}},
      {"token_type_embedding.weight", {embeddings + "token_type_embeddings.weight"}},
      {"head.weight", {head + ".decoder.weight"}},
      {"head.bias", {head + ".bias"}},
  };
  for (const std::string kind : {".weight", ".bias"}) {
    const std::string self = layer + "attention.self.";
    map.rules.push_back({"blocks.*.attention.qkv" + kind,
                         {self + "query" + kind, self + "key" + kind, self + "value" + kind}});
  }
  both("embedding_norm", embeddings + "LayerNorm");
  both("blocks.*.attention.out", layer + "attention.output.dense");
  both("blocks.*.norm1", layer + "attention.output.LayerNorm");
  both("blocks.*.mlp.up", layer + "intermediate.dense");
  both("blocks.*.mlp.down", layer + "output.dense");
  both("blocks.*.norm2", layer + "output.LayerNorm");
  both("head.dense", dense);
  both("head.norm", norm);
  map.prefixes = {root + "."};
  map.ignored = {embeddings + "position_ids"};
  map.repeated = {{head + ".decoder.weight", embeddings + "word_embeddings.weight"},
                  {head + ".decoder.bias", head + ".bias"}};
  map.renamed = {{"LayerNorm.gamma", "LayerNorm.weight"}, {"LayerNorm.beta", "LayerNorm.bias"}};
  return map;
}

template <const HfArchitecture& kArchitecture>
void read_config_of(const HfConfig& config, ModelConfig& model, AttentionConfig& attention) {
  read_config(kArchitecture, config, model, attention);
}

template <const HfArchitecture& kArchitecture>
void write_config_of(const ModelConfig& model, const AttentionConfig& attention, HfConfig& config) {
  write_config(kArchitecture, model, attention, config);
}

template <const HfArchitecture& kArchitecture>
bool resembles(const ModelConfig& model) {
  return model.type == kArchitecture.name;
}

}  // namespace

const HfArchitecture kHfBert{
    "bert",
    "BertForMaskedLM",
    tensors("bert", "cls.predictions", "cls.predictions.transform.dense",
            "cls.predictions.transform.LayerNorm"),
    read_config_of<kHfBert>,
    write_config_of<kHfBert>,
    resembles<kHfBert>,
};

const HfArchitecture kHfRoberta{
    "roberta",
    "RobertaForMaskedLM",
    tensors("roberta", "lm_head", "lm_head.dense", "lm_head.layer_norm"),
    read_config_of<kHfRoberta>,
    write_config_of<kHfRoberta>,
    resembles<kHfRoberta>,
};

}  // namespace quietformer
