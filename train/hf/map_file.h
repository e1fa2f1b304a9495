// A tensor-name map as a YAML file: a pretrained model of somebody's own, read without C++.
//
//   model: {layers: $n_layers, heads: 12, ...}    as in a config; $KEY is config.json's value
//   attention: {...}                              as in a config; n is 0 unless it is given
//   tensors:
//     token_embedding.weight: wte                              the same
//     blocks.*.attention.qkv.weight: [l.*.q, l.*.k, l.*.v]     one after another
//     blocks.*.mlp.up.weight: {from: l.*.fc, transpose: true}  their matrix is (in, out)
//     blocks.*.mlp.gate.weight: {from: l.*.gate_up, part: [0, 2]}
//     ...       {from: l.*.qkv, order: by_kv_head, pairs: adjacent}    as in train/hf/tensor_map.h
//   prefixes: [transformer.]           that names may lack
//   ignored: [l.*.attn.mask]           buffers
//   repeated: {lm_head.weight: wte}    what must be equal where it is there
#pragma once

#include <string>

#include "train/hf/hf_config.h"
#include "train/hf/tensor_map.h"
#include "train/model_source.h"

namespace quietformer {

struct MapFile {
  ModelConfig model;
  AttentionConfig attention;
  TensorMap tensors;
};

/// InputError naming file, line and key for anything wrong; `base: other.yaml` inherits. `config`
/// is what $KEY refers to ("$text_config.hidden_size" goes into objects).
MapFile load_map_file(const std::string& path, const HfConfig& config);

/// A directory with safetensors (and config.json, if the map refers to it), or one .safetensors
/// file, read by a map file. InputError as open_model().
ModelSource open_mapped_model(const std::string& path, const std::string& map_path);

}  // namespace quietformer
