#include "train/hf/import.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "core/log.h"
#include "layers/language_model.h"
#include "tests/support/scratch.h"
#include "tests/support/tensors.h"
#include "train/safetensors.h"

namespace quietformer {
namespace {

using nlohmann::json;
using test::error_of;
using test::expect_contains;
using test::put;

json small_config() {
  return {{"model_type", "gpt2"}, {"n_layer", 2},     {"n_head", 2},
          {"n_embd", 4},          {"n_positions", 3}, {"vocab_size", 5}};
}

// The configuration's tensors, filled with numbers that tell them apart.
class Weights {
 public:
  explicit Weights(const std::string& prefix = "transformer.") {
    const auto add = [&](const std::string& name, const Shape& shape) {
      owned_.push_back(test::normal(DType::f32, shape, std::uint32_t(owned_.size())));
      tensors_.push_back({prefix + name, owned_.back()});
    };
    add("wte.weight", {5, 4}), add("wpe.weight", {3, 4});
    for (const std::string h : {"h.0.", "h.1."}) {
      add(h + "ln_1.weight", {4}), add(h + "ln_1.bias", {4});
      add(h + "attn.c_attn.weight", {4, 12}), add(h + "attn.c_attn.bias", {12});
      add(h + "attn.c_proj.weight", {4, 4}), add(h + "attn.c_proj.bias", {4});
      add(h + "ln_2.weight", {4}), add(h + "ln_2.bias", {4});
      add(h + "mlp.c_fc.weight", {4, 16}), add(h + "mlp.c_fc.bias", {16});
      add(h + "mlp.c_proj.weight", {16, 4}), add(h + "mlp.c_proj.bias", {4});
    }
    add("ln_f.weight", {4}), add("ln_f.bias", {4});
  }
  void add(const std::string& name, const Tensor& tensor) { tensors_.push_back({name, tensor}); }
  void remove(const std::string& name) {
    std::erase_if(tensors_, [&](const NamedTensor& t) { return t.name == name; });
  }
  const Tensor& get(const std::string& name) const {
    for (const NamedTensor& t : tensors_)
      if (t.name == name) return t.tensor;
    throw std::runtime_error("no " + name);
  }
  void write(const std::string& path) const { write_safetensors(path, tensors_, {}); }

 private:
  std::vector<OwnedTensor> owned_;
  std::vector<NamedTensor> tensors_;
};

// Reads config.json alone.
void read_config(const test::ScratchFolder& folder, ModelConfig& model,
                 AttentionConfig& attention) {
  const HfConfig config = HfConfig::load(folder / "config.json");
  read_hf_config(hf_architecture_of(config), config, model, attention);
}

struct Loaded {
  ModelSource source;
  ParameterList parameters{DType::f64};
  std::vector<std::string> warnings;

  explicit Loaded(const test::ScratchFolder& folder) {
    const ScopedLogSink sink([&](LogLevel, const std::string& line) { warnings.push_back(line); });
    source = open_hf_model(folder.path());
    make_model(source.config.model, source.config.attention, parameters);  // registers them
    parameters.commit();
    EXPECT_TRUE(fill_parameters({}, source, parameters).empty());
  }
  Tensor value(const std::string& name) const { return parameters.find(name)->value; }
};

void write_small(const test::ScratchFolder& folder, const Weights& weights,
                 const json& changes = json::object()) {
  json config = small_config();
  config.update(changes);
  put(folder / "config.json", config.dump());
  weights.write(folder / "model.safetensors");
}

TEST(HfConfig, MapsEveryField) {
  const test::ScratchFolder folder;
  json config = small_config();
  ModelConfig model;
  AttentionConfig attention;
  const auto read = [&] {
    put(folder / "config.json", config.dump());
    model = {}, attention = {};
    model.qk_norm = "rmsnorm", model.position = "rotary";
    read_config(folder, model, attention);
  };
  read();
  EXPECT_EQ(model.layers, 2);
  EXPECT_EQ(model.heads, 2);
  EXPECT_EQ(model.kv_heads, 2);
  EXPECT_EQ(model.dim, 4);
  EXPECT_EQ(model.context, 3);
  EXPECT_EQ(model.vocab, 5);
  EXPECT_EQ(model.mlp, "gelu");
  EXPECT_EQ(model.mlp_dim, 16);
  EXPECT_EQ(model.norm_structure, "pre");
  EXPECT_EQ(model.position, "learned");
  EXPECT_EQ(model.qk_norm, "none");
  EXPECT_TRUE(model.bias && model.tied);
  EXPECT_EQ(model.dropout, 0.1);  // transformers' defaults
  EXPECT_EQ(model.norm_eps, 1e-5);
  EXPECT_EQ(attention.dropout, 0.1);
  EXPECT_EQ(attention.n, HeadParameterConfig::fixed(0));
  EXPECT_TRUE(attention.causal);
  EXPECT_FALSE(attention.scale);

  config.update({{"activation_function", "gelu"},
                 {"n_inner", 6},
                 {"tie_word_embeddings", false},
                 {"resid_pdrop", 0},
                 {"embd_pdrop", 0.0},
                 {"attn_pdrop", 0.25},
                 {"layer_norm_epsilon", 1e-6},
                 {"scale_attn_weights", false},
                 {"scale_attn_by_inverse_layer_idx", false},
                 {"pruned_heads", json::object()}});
  read();
  EXPECT_EQ(model.mlp, "gelu_erf");
  EXPECT_EQ(model.mlp_dim, 6);
  EXPECT_FALSE(model.tied);
  EXPECT_EQ(model.dropout, 0);
  EXPECT_EQ(model.norm_eps, 1e-6);
  EXPECT_EQ(attention.dropout, 0.25);
  EXPECT_EQ(attention.scale, 1.0);
  config["activation_function"] = "gelu_pytorch_tanh";
  read();
  EXPECT_EQ(model.mlp, "gelu");
}

TEST(HfConfig, RefusesWhatItCannotRepresent) {
  const test::ScratchFolder folder;
  const std::string path = folder / "config.json";
  const auto message = [&](const std::string& text) {
    put(path, text);
    ModelConfig model;
    AttentionConfig attention;
    return error_of([&] { read_config(folder, model, attention); });
  };
  const auto changed = [&](const char* key, const json& value) {
    json config = small_config();
    config[key] = value;
    return message(config.dump());
  };
  EXPECT_EQ(changed("model_type", "bart"),
            path + ": model_type: \"bart\", expected one of bert, gpt2, llama, roberta");
  EXPECT_EQ(changed("model_type", nullptr),
            path + ": model_type: null, expected one of bert, gpt2, llama, roberta");
  EXPECT_EQ(changed("activation_function", "relu"),
            path + ": activation_function: \"relu\", expected gelu_new, gelu_pytorch_tanh or gelu");
  EXPECT_EQ(changed("scale_attn_by_inverse_layer_idx", true),
            path + ": scale_attn_by_inverse_layer_idx: true, expected false: not supported");
  expect_contains(changed("add_cross_attention", true), "expected false: not supported");
  expect_contains(changed("pruned_heads", {{"0", {1}}}),
                  "pruned_heads: {\"0\":[1]}, expected none");
  expect_contains(changed("quantization_config", json::object()), "quantization_config: {}");
  EXPECT_EQ(changed("n_layer", nullptr), path + ": n_layer: missing");
  EXPECT_EQ(changed("n_layer", "2"), path + ": n_layer: \"2\", expected a positive integer");
  EXPECT_EQ(changed("n_layer", 2.5), path + ": n_layer: 2.5, expected a positive integer");
  expect_contains(changed("n_embd", std::uint64_t{1} << 63),
                  "n_embd: 9223372036854775808, expected");
  EXPECT_EQ(changed("tie_word_embeddings", 1),
            path + ": tie_word_embeddings: 1, expected true or false");
  EXPECT_EQ(changed("layer_norm_epsilon", "x"),
            path + ": layer_norm_epsilon: \"x\", expected a number");
  for (const char* key : {"n_layer", "n_head", "n_embd", "n_positions", "vocab_size", "n_inner"})
    for (const int value : {0, -3})
      EXPECT_EQ(changed(key, value),
                path + ": " + key + ": " + std::to_string(value) + ", expected a positive integer");
  expect_contains(changed("n_embd", 1 << 30), path + ": model.dim");
  expect_contains(changed("n_head", 3), path + ": model.");
  expect_contains(message("{"), path + ": not JSON: ");
  EXPECT_EQ(message("[1]"), path + ": expected a JSON object");
  std::filesystem::remove(path);
  EXPECT_EQ(error_of([&] {
              ModelConfig model;
              AttentionConfig attention;
              read_config(folder, model, attention);
            }),
            path + ": cannot open: No such file or directory");
}

TEST(HfLoad, FillsEveryParameterTransposingConv1D) {
  for (const std::string prefix : {"transformer.", ""}) {
    const test::ScratchFolder folder;
    const Weights weights(prefix);
    write_small(folder, weights);
    const Loaded loaded(folder);
    EXPECT_TRUE(loaded.source.unused.empty());
    EXPECT_TRUE(loaded.warnings.empty());
    EXPECT_EQ(loaded.parameters.all().size(), 28u);
    const auto same = [&](const char* ours, const char* theirs) {
      EXPECT_TRUE(test::close(loaded.value(ours), weights.get(prefix + theirs), 0)) << ours;
    };
    const auto transposed = [&](const char* ours, const char* theirs) {
      EXPECT_TRUE(test::close(loaded.value(ours), weights.get(prefix + theirs).transpose(0, 1), 0))
          << ours;
    };
    same("token_embedding.weight", "wte.weight");
    same("position_embedding.weight", "wpe.weight");
    same("blocks.1.norm1.bias", "h.1.ln_1.bias");
    transposed("blocks.0.attention.qkv.weight", "h.0.attn.c_attn.weight");
    same("blocks.1.attention.qkv.bias", "h.1.attn.c_attn.bias");
    transposed("blocks.1.attention.out.weight", "h.1.attn.c_proj.weight");
    transposed("blocks.0.mlp.up.weight", "h.0.mlp.c_fc.weight");
    transposed("blocks.1.mlp.down.weight", "h.1.mlp.c_proj.weight");
    same("norm.weight", "ln_f.weight");
  }
}

TEST(HfLoad, IgnoresBuffersAndReportsStrangers) {
  const test::ScratchFolder folder;
  Weights weights;
  const OwnedTensor mask(DType::u8, {1, 1, 3, 3}), extra(DType::f32, {1});
  weights.add("transformer.h.0.attn.bias", mask);
  weights.add("h.1.attn.masked_bias", extra);
  weights.add("transformer.h.7.ln_1.bias", extra);
  weights.add("score.weight", extra);
  write_small(folder, weights);
  const Loaded loaded(folder);
  EXPECT_EQ(loaded.source.unused,
            (std::vector<std::string>{"transformer.h.7.ln_1.bias", "score.weight"}));
  ASSERT_EQ(loaded.warnings.size(), 1u);
  expect_contains(loaded.warnings[0],
                  "model.safetensors: 2 unused tensors: transformer.h.7.ln_1.bias, score.weight");
}

TEST(HfLoad, HeadsAreTiedOrGiven) {
  const test::ScratchFolder folder;
  const OwnedTensor head = test::normal(DType::f32, {5, 4}, 99);
  Weights untied;
  untied.add("lm_head.weight", head);
  write_small(folder, untied, {{"tie_word_embeddings", false}});
  EXPECT_TRUE(test::close(Loaded(folder).value("head.weight"), head, 0));
  write_small(folder, Weights(), {{"tie_word_embeddings", false}});
  expect_contains(
      error_of([&] { Loaded loaded(folder); }),
      "model.safetensors: tensor lm_head.weight: missing, expected for head.weight (5, 4)");

  Weights repeated;
  repeated.add("lm_head.weight", repeated.get("transformer.wte.weight"));
  write_small(folder, repeated);
  EXPECT_TRUE(Loaded(folder).source.unused.empty());
  write_small(folder, untied);
  expect_contains(error_of([&] { Loaded loaded(folder); }),
                  "tensor lm_head.weight: differs from transformer.wte.weight");
}

TEST(HfLoad, MissingAndMisshapenTensorsAreErrors) {
  const test::ScratchFolder folder;
  const std::string path = folder / "model.safetensors";
  Weights weights;
  weights.remove("transformer.h.1.mlp.c_fc.weight");
  write_small(folder, weights);
  EXPECT_EQ(
      error_of([&] { Loaded loaded(folder); }),
      path +
          ": tensor transformer.h.1.mlp.c_fc.weight: missing, expected for blocks.1.mlp.up.weight "
          "(16, 4)");
  // Not transposed: a checkpoint of linear layers instead of Conv1D.
  const OwnedTensor turned(DType::f32, {16, 4});
  weights.add("transformer.h.1.mlp.c_fc.weight", turned);
  write_small(folder, weights);
  EXPECT_EQ(
      error_of([&] { Loaded loaded(folder); }),
      path + ": tensor transformer.h.1.mlp.c_fc.weight: found shape (16, 4), expected (4, 16)");
  Weights integers;
  integers.remove("transformer.ln_f.bias");
  const OwnedTensor wrong(DType::i32, {4});
  integers.add("transformer.ln_f.bias", wrong);
  write_small(folder, integers);
  expect_contains(error_of([&] { Loaded loaded(folder); }),
                  "found dtype I32, expected F64, F32, F16 or BF16");
  Weights doubled;
  doubled.add("wte.weight", doubled.get("transformer.wte.weight"));
  write_small(folder, doubled);
  expect_contains(error_of([&] { Loaded loaded(folder); }),
                  "wte.weight: given twice, with a prefix (transformer.)");

  std::filesystem::remove(path);
  EXPECT_EQ(error_of([&] { Loaded loaded(folder); }),
            path + ": cannot open: No such file or directory");
  put(folder / "pytorch_model.bin", "x");
  expect_contains(error_of([&] { Loaded loaded(folder); }),
                  "pytorch_model.bin: a PyTorch pickle, which can run code when it is read");
}

}  // namespace
}  // namespace quietformer
