// Llama and its like: RMSNorm, rotary positions (pairs d and d + D/2, as in their converted files
// and here), SwiGLU, grouped keys and values, q, k and v in tensors of their own.
#include <fmt/format.h>

#include "train/hf/architecture.h"

namespace quietformer {
namespace {

// Of transformers' LlamaConfig.
constexpr double kTheta = 10000, kNormEps = 1e-6;

double rotary_base(const HfConfig& config) {
  const HfConfig old = config.object("rope_scaling"), now = config.object("rope_parameters");
  for (const HfConfig* rope : {&old, &now})
    for (const char* key : {"rope_type", "type"})
      if (rope->text(key, "default") != "default") rope->refuse(key, "default: not supported");
  return now.number("rope_theta", config.number("rope_theta", kTheta));
}

void read_config(const HfConfig& config, ModelConfig& model, AttentionConfig& attention) {
  model.type = "gpt";
  model.layers = config.integer("num_hidden_layers");
  model.heads = config.integer("num_attention_heads");
  model.kv_heads = config.integer("num_key_value_heads", model.heads);
  model.dim = config.integer("hidden_size");
  if (config.integer("head_dim", model.head_dim()) != model.head_dim())
    config.refuse("head_dim",
                  fmt::format("hidden_size / num_attention_heads, which is {}", model.head_dim()));
  model.context = config.integer("max_position_embeddings", 2048);
  model.vocab = config.integer("vocab_size");
  if (config.text("hidden_act", "silu") != "silu") config.refuse("hidden_act", "silu");
  model.mlp = "swiglu";
  model.mlp_dim = config.integer("intermediate_size");
  model.norm = "rmsnorm";
  model.norm_structure = "pre";
  model.position = "rotary";
  model.bias = config.flag("attention_bias", false);
  if (config.flag("mlp_bias", false) != model.bias)
    config.refuse("mlp_bias", fmt::format("{}, as attention_bias is", model.bias));
  if (config.integer("pretraining_tp", 1) != 1) config.refuse("pretraining_tp", "1");
  model.tied = config.flag("tie_word_embeddings", false);
  model.qk_norm = "none";
  model.layer_scale = 0;
  model.dropout = 0;
  model.norm_eps = config.number("rms_norm_eps", kNormEps);
  model.rotary_base = rotary_base(config);
  model.init_std = config.number("initializer_range", 0.02);
  attention.dropout = config.number("attention_dropout", 0);
}

void write_config(const ModelConfig& model, const AttentionConfig& attention, HfConfig& config) {
  const auto expect = [](std::string_view key, std::string_view found, std::string_view expected) {
    expect_value(kHfLlama, key, found, expected);
  };
  expect("model.type", model.type, "gpt");
  expect("model.position", model.position, "rotary");
  expect("model.norm", model.norm, "rmsnorm");
  expect("model.norm_structure", model.norm_structure, "pre");
  expect("model.qk_norm", model.qk_norm, "none");
  expect("model.layer_scale", fmt::format("{}", model.layer_scale), "0");
  expect("model.mlp", model.mlp, "swiglu");
  expect("model.dropout", fmt::format("{}", model.dropout), "0");
  config.set("num_hidden_layers", model.layers);
  config.set("num_attention_heads", model.heads);
  config.set("num_key_value_heads", model.kv_heads);
  config.set("head_dim", model.head_dim());
  config.set("hidden_size", model.dim);
  config.set("max_position_embeddings", model.context);
  config.set("vocab_size", model.vocab);
  config.set("hidden_act", "silu");
  config.set("intermediate_size", model.mlp_dim);
  config.set("attention_bias", model.bias);
  config.set("mlp_bias", model.bias);
  config.set("tie_word_embeddings", model.tied);
  config.set("rms_norm_eps", model.norm_eps);
  config.set("initializer_range", model.init_std);
  config.set("attention_dropout", attention.dropout);
  // transformers 4 reads the one, 5 prefers the other where it is there.
  if (HfConfig rope = config.object("rope_parameters"); !rope.is_empty()) {
    rope.set("rope_theta", model.rotary_base);
    config.set("rope_parameters", rope);
  } else {
    config.set("rope_theta", model.rotary_base);
  }
}

bool resembles(const ModelConfig& model) {
  return model.type == "gpt" && model.position == "rotary";
}

TensorMap tensors() {
  TensorMap map;
  map.rules = {{"token_embedding.weight", {"model.embed_tokens.weight"}},
               {"blocks.*.norm1.weight", {"model.layers.*.input_layernorm.weight"}},
               {"blocks.*.norm2.weight", {"model.layers.*.post_attention_layernorm.weight"}},
               {"norm.weight", {"model.norm.weight"}},
               {"head.weight", {"lm_head.weight"}}};
  for (const std::string kind : {".weight", ".bias"}) {
    const std::string attention = "model.layers.*.self_attn.", mlp = "model.layers.*.mlp.";
    map.rules.push_back(
        {"blocks.*.attention.qkv" + kind,
         {attention + "q_proj" + kind, attention + "k_proj" + kind, attention + "v_proj" + kind}});
    map.rules.push_back({"blocks.*.attention.out" + kind, {attention + "o_proj" + kind}});
    map.rules.push_back({"blocks.*.mlp.gate" + kind, {mlp + "gate_proj" + kind}});
    map.rules.push_back({"blocks.*.mlp.up" + kind, {mlp + "up_proj" + kind}});
    map.rules.push_back({"blocks.*.mlp.down" + kind, {mlp + "down_proj" + kind}});
  }
  map.prefixes = {"model."};
  map.ignored = {"model.layers.*.self_attn.rotary_emb.inv_freq"};
  map.repeated = {{"lm_head.weight", "model.embed_tokens.weight"}};
  return map;
}

}  // namespace

const HfArchitecture kHfLlama{"llama",     "LlamaForCausalLM", tensors(),
                              read_config, write_config,       resembles};

}  // namespace quietformer
