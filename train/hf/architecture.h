// The architectures of Hugging Face that we read and write: each is one file here, which holds its
// tensor-name map and what its config.json means, and a line in architecture.cpp.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "layers/model_config.h"
#include "train/hf/hf_config.h"
#include "train/hf/tensor_map.h"

namespace quietformer {

struct HfArchitecture {
  std::string_view name;         // config.json's model_type
  std::string_view model_class;  // in transformers, config.json's architectures
  TensorMap tensors;

  /// Sets every field of `model` that the architecture determines, and makes `attention` theirs
  /// (plain softmax, n = 0). InputError for what cannot be represented.
  void (*read_config)(const HfConfig& config, ModelConfig& model, AttentionConfig& attention);
  /// The reverse, over what `config` holds already. `model` is resolved. What of `attention` theirs
  /// has no key for is left out. InputError naming the key of ours that theirs cannot express.
  void (*write_config)(const ModelConfig& model, const AttentionConfig& attention,
                       HfConfig& config);
  /// Whether a model of ours that comes from nowhere is written as this architecture.
  bool (*resembles)(const ModelConfig& model);
};

extern const HfArchitecture kHfBert, kHfGpt2, kHfLlama, kHfRoberta;

std::span<const HfArchitecture* const> hf_architectures();
const HfArchitecture* find_hf_architecture(std::string_view name);  // null: not known
/// By config.json's model_type; InputError listing the known ones.
const HfArchitecture& hf_architecture_of(const HfConfig& config);
/// For a model of ours; InputError when none is like it.
const HfArchitecture& hf_architecture_like(const ModelConfig& model);

/// read_config(), then the key `quietformer`, which carries an attention that theirs cannot; what
/// comes out is valid.
void read_hf_config(const HfArchitecture& architecture, const HfConfig& config, ModelConfig& model,
                    AttentionConfig& attention);

// For the architectures' files.

/// Refuses a value of ours other than `expected`: theirs has no other.
void expect_value(const HfArchitecture& architecture, std::string_view key, std::string_view found,
                  std::string_view expected);

}  // namespace quietformer
