#include "train/hf_gpt2.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "core/check.h"
#include "core/cuda/memory.h"
#include "core/file.h"
#include "core/log.h"
#include "train/safetensors.h"

namespace quietformer {
namespace {

using Json = nlohmann::json;

constexpr std::array<HfTensorName, 17> kNames{{
    {"wte.weight", "token_embedding.weight", HfLayout::same},
    {"wpe.weight", "position_embedding.weight", HfLayout::same},
    {"h.*.ln_1.weight", "blocks.*.norm1.weight", HfLayout::same},
    {"h.*.ln_1.bias", "blocks.*.norm1.bias", HfLayout::same},
    {"h.*.attn.c_attn.weight", "blocks.*.attention.qkv.weight", HfLayout::transposed},
    {"h.*.attn.c_attn.bias", "blocks.*.attention.qkv.bias", HfLayout::same},
    {"h.*.attn.c_proj.weight", "blocks.*.attention.out.weight", HfLayout::transposed},
    {"h.*.attn.c_proj.bias", "blocks.*.attention.out.bias", HfLayout::same},
    {"h.*.ln_2.weight", "blocks.*.norm2.weight", HfLayout::same},
    {"h.*.ln_2.bias", "blocks.*.norm2.bias", HfLayout::same},
    {"h.*.mlp.c_fc.weight", "blocks.*.mlp.up.weight", HfLayout::transposed},
    {"h.*.mlp.c_fc.bias", "blocks.*.mlp.up.bias", HfLayout::same},
    {"h.*.mlp.c_proj.weight", "blocks.*.mlp.down.weight", HfLayout::transposed},
    {"h.*.mlp.c_proj.bias", "blocks.*.mlp.down.bias", HfLayout::same},
    {"ln_f.weight", "norm.weight", HfLayout::same},
    {"ln_f.bias", "norm.bias", HfLayout::same},
    {"lm_head.weight", "head.weight", HfLayout::same},
}};

// Causal masks that old versions stored with the weights.
constexpr std::array<std::string_view, 2> kBuffers{"h.*.attn.bias", "h.*.attn.masked_bias"};

constexpr std::string_view kPrefix = "transformer.";
constexpr std::string_view kHead = "lm_head.weight";
constexpr std::string_view kTokens = "wte.weight";

// Matches `name` against `pattern`; the digits that '*' stands for, or "" when there is no '*'.
std::optional<std::string_view> match(std::string_view pattern, std::string_view name) {
  const std::size_t star = pattern.find('*');
  if (star == std::string_view::npos)
    return name == pattern ? std::optional<std::string_view>("") : std::nullopt;
  const std::string_view head = pattern.substr(0, star), tail = pattern.substr(star + 1);
  if (!name.starts_with(head) || !name.ends_with(tail) || name.size() <= head.size() + tail.size())
    return std::nullopt;
  const std::string_view number = name.substr(head.size(), name.size() - head.size() - tail.size());
  if (number.find_first_not_of("0123456789") != std::string_view::npos) return std::nullopt;
  return number;
}

std::string substitute(std::string_view pattern, std::string_view number) {
  std::string name(pattern);
  if (const std::size_t star = name.find('*'); star != std::string::npos)
    name.replace(star, 1, number);
  return name;
}

bool is_buffer(std::string_view name) {
  for (const std::string_view pattern : kBuffers)
    if (match(pattern, name)) return true;
  return false;
}

// config.json, read field by field; errors name the file and the key.
class HfConfig {
 public:
  explicit HfConfig(const std::string& path) : path_(path) {
    try {
      json_ = Json::parse(read_file(path, 1 << 20));
    } catch (const Json::exception& error) {
      throw InputError(fmt::format("{}: not JSON: {}", path, one_line(error.what(), 120)));
    }
    if (!json_.is_object()) throw InputError(fmt::format("{}: expected a JSON object", path));
  }

  bool is_null(const char* key) const { return !json_.contains(key) || json_[key].is_null(); }

  // All integers of a config are sizes.
  std::int64_t integer(const char* key) const {
    const Json& value = require(key);
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() == 0 ||
        value.get<std::uint64_t>() > std::uint64_t{1} << 40)
      fail(key, "a positive integer");
    return value.get<std::int64_t>();
  }
  double number(const char* key, double otherwise) const {
    if (is_null(key)) return otherwise;
    if (!json_[key].is_number()) fail(key, "a number");
    return json_[key].get<double>();
  }
  bool flag(const char* key, bool otherwise) const {
    if (is_null(key)) return otherwise;
    if (!json_[key].is_boolean()) fail(key, "true or false");
    return json_[key].get<bool>();
  }
  std::string text(const char* key, const std::string& otherwise) const {
    if (is_null(key)) return otherwise;
    if (!json_[key].is_string()) fail(key, "text");
    return json_[key].get<std::string>();
  }
  const Json& require(const char* key) const {
    if (is_null(key)) throw InputError(fmt::format("{}: {}: missing", path_, key));
    return json_[key];
  }
  [[noreturn]] void fail(const char* key, std::string_view expected) const {
    throw InputError(fmt::format("{}: {}: {}, expected {}", path_, key,
                                 one_line(json_.value(key, Json()).dump(-1, ' ', true), 60),
                                 expected));
  }

 private:
  std::string path_;
  Json json_;
};

void refuse_unsupported(const HfConfig& config) {
  if (config.text("model_type", "") != "gpt2") config.fail("model_type", "gpt2");
  if (config.flag("scale_attn_by_inverse_layer_idx", false))
    config.fail("scale_attn_by_inverse_layer_idx", "false: not supported");
  if (config.flag("add_cross_attention", false))
    config.fail("add_cross_attention", "false: not supported");
  if (!config.is_null("pruned_heads") && !config.require("pruned_heads").empty())
    config.fail("pruned_heads", "none: not supported");
  if (!config.is_null("quantization_config"))
    config.fail("quantization_config", "none: not supported");
}

std::string mlp_of(const HfConfig& config) {
  const std::string name = config.text("activation_function", "gelu_new");
  if (name == "gelu_new" || name == "gelu_pytorch_tanh") return "gelu";
  if (name == "gelu") return "gelu_erf";
  config.fail("activation_function", "gelu_new, gelu_pytorch_tanh or gelu");
}

std::string weights_path(const std::string& directory) {
  namespace fs = std::filesystem;
  const std::string path = directory + "/model.safetensors";
  if (fs::exists(path)) return path;
  for (const char* other : {"model.safetensors.index.json", "pytorch_model.bin", "tf_model.h5"})
    if (fs::exists(directory + "/" + other))
      throw InputError(
          fmt::format("{}: found {}, expected model.safetensors (one file)", directory, other));
  return path;  // opening it says that it does not exist
}

// The file's tensors by name without the prefix.
std::map<std::string, const SafetensorsEntry*> index_by_name(const SafetensorsReader& file) {
  std::map<std::string, const SafetensorsEntry*> index;
  for (const SafetensorsEntry& entry : file.entries()) {
    std::string_view name = entry.name;
    if (name.starts_with(kPrefix)) name.remove_prefix(kPrefix.size());
    if (!index.emplace(name, &entry).second)
      throw InputError(fmt::format("{}: tensor {}: given with and without the prefix {}",
                                   file.path(), one_line(name, 100), kPrefix));
  }
  return index;
}

template <class T>
void transpose(const T* in, T* out, std::int64_t rows, std::int64_t columns) {
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < columns; ++c) out[c * rows + r] = in[r * columns + c];
}

void load(const SafetensorsReader& file, const SafetensorsEntry& entry, HfLayout layout,
          const Tensor& out) {
  if (layout == HfLayout::same) {
    file.read(entry, out);
    return;
  }
  QF_EXPECTS(out.shape.rank == 2);
  const OwnedTensor theirs(out.dtype, {out.shape[1], out.shape[0]});
  file.read(entry, theirs);
  dispatch_floating(out.dtype, [&]<class T>() {
    transpose(theirs.as<T>(), out.as<T>(), out.shape[1], out.shape[0]);
  });
}

}  // namespace

std::span<const HfTensorName> hf_gpt2_names() {
  return kNames;
}

std::optional<HfTensor> hf_gpt2_tensor(std::string_view parameter) {
  for (const HfTensorName& row : kNames)
    if (const auto number = match(row.ours, parameter))
      return HfTensor{substitute(row.hf, *number), row.layout};
  return std::nullopt;
}

void read_hf_gpt2_config(const std::string& directory, ModelConfig& model,
                         AttentionConfig& attention) {
  const std::string path = directory + "/config.json";
  const HfConfig config(path);
  refuse_unsupported(config);
  model.type = "gpt";
  model.layers = config.integer("n_layer");
  model.heads = model.kv_heads = config.integer("n_head");
  model.dim = config.integer("n_embd");
  model.context = config.integer("n_positions");
  model.vocab = config.integer("vocab_size");
  model.mlp = mlp_of(config);
  model.mlp_dim = config.is_null("n_inner") ? 4 * model.dim : config.integer("n_inner");
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
                            path, model.dropout));

  attention = AttentionConfig();
  attention.n = HeadParameterConfig::fixed(0);
  attention.dropout = config.number("attn_pdrop", 0.1);
  if (!config.flag("scale_attn_weights", true)) attention.scale = 1;
  try {
    validate(model, attention);
  } catch (const InputError& error) {
    throw InputError(fmt::format("{}: {}", path, error.what()));
  }
}

HfLoadReport load_hf_gpt2(const std::string& directory, ParameterList& parameters) {
  const SafetensorsReader file(weights_path(directory));
  const auto index = index_by_name(file);
  std::set<std::string> used;
  HfLoadReport report;
  for (const Parameter& parameter : parameters.all()) {
    const auto theirs = hf_gpt2_tensor(parameter.name);
    if (!theirs) {
      report.untouched.push_back(parameter.name);
      continue;
    }
    const auto found = index.find(theirs->name);
    if (found == index.end())
      throw InputError(fmt::format("{}: tensor {}: missing, expected for {} {}", file.path(),
                                   theirs->name, parameter.name,
                                   to_string(parameter.value.get().shape)));
    const Tensor master = parameter.master;
    if (master.device.type == DeviceType::cpu) {
      load(file, *found->second, theirs->layout, master);
    } else {
      const OwnedTensor host(master.dtype, master.shape);
      load(file, *found->second, theirs->layout, host);
      cuda::copy(master, host);
    }
    used.insert(theirs->name);
  }
  Context ctx;
  ctx.device = parameters.device();
  parameters.update_values(ctx);
  // A tied head is stored once, or twice with the same values.
  const auto head = index.find(std::string(kHead)), tokens = index.find(std::string(kTokens));
  if (head != index.end() && !used.contains(std::string(kHead)) && tokens != index.end()) {
    if (head->second->bytes != tokens->second->bytes)
      throw InputError(
          fmt::format("{}: tensor {}: differs from {}, expected the same because "
                      "tie_word_embeddings is true",
                      file.path(), kHead, kTokens));
    used.insert(std::string(kHead));
  }
  for (const auto& [name, entry] : index)
    if (!used.contains(name) && !is_buffer(name)) report.unused.push_back(entry->name);
  if (!report.unused.empty())
    log_warning(fmt::format("{}: {} unused tensors: {}", file.path(), report.unused.size(),
                            fmt::join(report.unused, ", ")));
  return report;
}

}  // namespace quietformer
