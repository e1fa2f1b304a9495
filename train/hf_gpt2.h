// Models in Hugging Face's gpt2 layout: a directory with config.json and model.safetensors.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/parameter.h"
#include "layers/model_config.h"

namespace quietformer {

/// How a tensor of theirs becomes a parameter of ours. Their Conv1D weights are (in, out), our
/// linear weights (out, in); the fused qkv has the same order (q, then k, then v) along `out`.
enum class HfLayout : std::uint8_t { same, transposed };

/// One row of the tensor-name map. '*' stands for the block's number; `hf` is without the prefix
/// "transformer.", which a file may or may not have.
struct HfTensorName {
  std::string_view hf;
  std::string_view ours;
  HfLayout layout;
};
std::span<const HfTensorName> hf_gpt2_names();

/// Their tensor for one of our parameters, by that map.
struct HfTensor {
  std::string name;  // without the prefix
  HfLayout layout = HfLayout::same;
};
std::optional<HfTensor> hf_gpt2_tensor(std::string_view parameter);  // none: theirs has no such

/// Reads DIRECTORY/config.json. Sets every field of `model` that the layout determines, and makes
/// `attention` theirs: dot products, plain softmax (n = 0), causal. InputError for what cannot be
/// represented (activation functions, scaling by layer index, ...).
void read_hf_gpt2_config(const std::string& directory, ModelConfig& model,
                         AttentionConfig& attention);

/// What load_hf_gpt2 met besides the tensors it loaded.
struct HfLoadReport {
  std::vector<std::string> unused;     // in the file, of no use here
  std::vector<std::string> untouched;  // our parameters that the layout does not know (a learned n)
};

/// Loads DIRECTORY/model.safetensors into committed parameters on any device, converting to the
/// type of their masters; a warning names unused tensors. InputError when a parameter that the
/// layout knows is missing or of another shape, and when the model ties its head but the file has
/// another one.
HfLoadReport load_hf_gpt2(const std::string& directory, ParameterList& parameters);

}  // namespace quietformer
