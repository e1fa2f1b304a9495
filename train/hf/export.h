// Writing a model as a directory that transformers loads.
#pragma once

#include <cstdint>
#include <string>

#include "train/hf/architecture.h"
#include "train/model_source.h"

namespace quietformer {

struct HfExportOptions {
  /// Values of tensors in one file, at most, unless a single one is larger. Above it the files are
  /// shards with an index.
  std::uint64_t shard_bytes = 5'000'000'000;
};

/// Writes a new directory: config.json, model.safetensors (or its shards) in the element types that
/// the source has, and the source's small files. What of model.attention `architecture` has no key
/// for goes under config.json's key `quietformer`, parameters that it has no tensor for into
/// quietformer.safetensors. The directory appears whole or not at all.
///
/// InputError when it exists and is not empty, and for a model that the architecture cannot
/// express; RunError when it cannot be written.
void write_hf_directory(const Context& ctx, const std::string& directory, const ModelSource& model,
                        const HfArchitecture& architecture, const HfExportOptions& options = {});

}  // namespace quietformer
