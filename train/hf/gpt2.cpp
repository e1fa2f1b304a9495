// GPT-2: Conv1D matrices (in, out), a fused c_attn in our order, a tied head.
#include <fmt/format.h>

#include "core/log.h"
#include "train/hf/architecture.h"

namespace quietformer {
namespace {

void read_config(const HfConfig& config, ModelConfig& model, AttentionConfig& attention) {
  config.expect_off("scale_attn_by_inverse_layer_idx");
  config.expect_off("add_cross_attention");
  if (!config.object("pruned_heads").is_empty())
    config.refuse("pruned_heads", "none: not supported");
  model.type = "gpt";
  model.layers = config.integer("n_layer");
  model.heads = model.kv_heads = config.integer("n_head");
  model.dim = config.integer("n_embd");
  model.context = config.integer("n_positions");
  model.vocab = config.integer("vocab_size");
  const std::string activation = config.text("activation_function", "gelu_new");
  if (activation != "gelu_new" && activation != "gelu_pytorch_tanh" && activation != "gelu")
    config.refuse("activation_function", "gelu_new, gelu_pytorch_tanh or gelu");
  model.mlp = activation == "gelu" ? "gelu_erf" : "gelu";
  model.mlp_dim = config.integer("n_inner", 4 * model.dim);
  model.norm = "layernorm";
  model.norm_structure = "pre";
  model.position = "learned";
  model.bias = true;
  model.tied = config.flag("tie_word_embeddings", true);
  model.qk_norm = "none";
  model.layer_scale = 0;
  model.dropout = config.number("resid_pdrop", 0.1);
  model.norm_eps = config.number("layer_norm_epsilon", 1e-5);
  model.init_std = config.number("initializer_range", 0.02);
  if (config.number("embd_pdrop", 0.1) != model.dropout)
    log_warning(fmt::format("{}: embd_pdrop differs from resid_pdrop {}, which is used for both",
                            config.path(), model.dropout));
  attention.dropout = config.number("attn_pdrop", 0.1);
  if (!config.flag("scale_attn_weights", true)) attention.scale = 1;
}

void write_config(const ModelConfig& model, const AttentionConfig& attention, HfConfig& config) {
  const auto expect = [](std::string_view key, std::string_view found, std::string_view expected) {
    expect_value(kHfGpt2, key, found, expected);
  };
  expect("model.type", model.type, "gpt");
  expect("model.position", model.position, "learned");
  expect("model.norm", model.norm, "layernorm");
  expect("model.norm_structure", model.norm_structure, "pre");
  expect("model.qk_norm", model.qk_norm, "none");
  expect("model.layer_scale", fmt::format("{}", model.layer_scale), "0");
  expect("model.bias", model.bias ? "true" : "false", "true");
  if (model.mlp != "gelu") expect("model.mlp", model.mlp, "gelu_erf");
  expect("model.kv_heads", fmt::format("{}", model.kv_heads), fmt::format("{}", model.heads));
  config.set("n_layer", model.layers);
  config.set("n_head", model.heads);
  config.set("n_embd", model.dim);
  config.set("n_positions", model.context);
  config.set("vocab_size", model.vocab);
  if (model.mlp_dim == 4 * model.dim)
    config.set_null("n_inner");
  else
    config.set("n_inner", model.mlp_dim);
  // gelu_pytorch_tanh, which the source may have said, is gelu_new.
  const std::string activation = config.text("activation_function", "");
  if (model.mlp == "gelu_erf")
    config.set("activation_function", "gelu");
  else if (activation != "gelu_pytorch_tanh")
    config.set("activation_function", "gelu_new");
  config.set("tie_word_embeddings", model.tied);
  config.set("resid_pdrop", model.dropout);
  config.set("embd_pdrop", model.dropout);
  config.set("attn_pdrop", attention.dropout);
  config.set("layer_norm_epsilon", model.norm_eps);
  config.set("initializer_range", model.init_std);
  config.set("scale_attn_weights", attention.scale != 1.0);
  config.set("scale_attn_by_inverse_layer_idx", false);
}

bool resembles(const ModelConfig& model) {
  return model.type == "gpt" && model.position == "learned";
}

TensorMap tensors() {
  TensorMap map;
  const auto both = [&](const std::string& ours, const std::string& theirs,
                        Matrix matrix = Matrix::out_in) {
    map.rules.push_back({ours + ".weight", {theirs + ".weight"}, matrix});
    map.rules.push_back({ours + ".bias", {theirs + ".bias"}});
  };
  map.rules = {{"token_embedding.weight", {"transformer.wte.weight"}},
               {"position_embedding.weight", {"transformer.wpe.weight"}},
               {"head.weight", {"lm_head.weight"}}};
  both("blocks.*.norm1", "transformer.h.*.ln_1");
  both("blocks.*.attention.qkv", "transformer.h.*.attn.c_attn", Matrix::in_out);
  both("blocks.*.attention.out", "transformer.h.*.attn.c_proj", Matrix::in_out);
  both("blocks.*.norm2", "transformer.h.*.ln_2");
  both("blocks.*.mlp.up", "transformer.h.*.mlp.c_fc", Matrix::in_out);
  both("blocks.*.mlp.down", "transformer.h.*.mlp.c_proj", Matrix::in_out);
  both("norm", "transformer.ln_f");
  map.prefixes = {"transformer."};
  // Causal masks that old versions stored with the weights.
  map.ignored = {"transformer.h.*.attn.bias", "transformer.h.*.attn.masked_bias"};
  map.repeated = {{"lm_head.weight", "transformer.wte.weight"}};
  return map;
}

}  // namespace

const HfArchitecture kHfGpt2{"gpt2",      "GPT2LMHeadModel", tensors(),
                             read_config, write_config,      resembles};

}  // namespace quietformer
