// Writing models: as a native checkpoint (train/checkpoint.h), or for transformers
// (train/hf/export.h).
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "train/model_source.h"

namespace quietformer {

/// Writes a checkpoint at step 0, of parameters alone, in the element types that the model has;
/// eval, generate, stats, inspect and train --init take it. Its values pass through memory once.
/// InputError when `path` exists, or the model's configuration is not complete (an encoder of
/// tokens needs config.data.mlm.mask_token).
void write_native(const Context& ctx, const std::string& path, const ModelSource& model);

/// The id of the mask in a model's tokeniser files; absent: they do not say.
std::optional<std::int64_t> mask_token_of(const ModelSource& model);

}  // namespace quietformer
