// Models in Hugging Face's layout: a directory with config.json and safetensors.
#pragma once

#include <string>

#include "train/hf/architecture.h"
#include "train/hf/tensor_files.h"
#include "train/model_source.h"

namespace quietformer {

/// The file beside model.safetensors for parameters that their architecture lacks (a learned sink
/// logit or sigmoid bias), under our names.
inline constexpr const char* kOurTensors = "quietformer.safetensors";
/// Files that go with a model besides its weights, as far as a directory has them.
inline constexpr const char* kCompanions[] = {"config.json",
                                              "generation_config.json",
                                              "tokenizer.json",
                                              "tokenizer_config.json",
                                              "special_tokens_map.json",
                                              "vocab.json",
                                              "merges.txt",
                                              "vocab.txt",
                                              "added_tokens.json"};

bool is_companion(std::string_view name);
/// Their contents by name.
std::map<std::string, std::string> read_companions(const std::string& directory);

/// Opens DIRECTORY by its config.json. InputError as open_model() says.
ModelSource open_hf_model(const std::string& directory);

/// The parameters of `model` and `attention` out of files, by a map; unused tensors are named in
/// the result. InputError when a tensor is missing, has another shape, is given twice (with and
/// without a prefix), or repeats another one with other values.
void map_parameters(ModelSource& source, std::shared_ptr<const TensorFiles> files,
                    const TensorMap& map);

}  // namespace quietformer
