// Which tokenizer belongs to a model, and which files are text for it.
#pragma once

#include <memory>
#include <string>

#include "data/source.h"
#include "data/tokenizer.h"
#include "train/load_model.h"

namespace quietformer {

/// Completes a request: a file of tokens holds 16-bit ids when it is called *.bin or `tokenizer` is
/// null, and else is text for the tokenizer, which must live until the source is open.
void choose_text(SourceRequest& request, const Tokenizer* tokenizer);

/// The tokenizer of config.data.tokenizer; null when there is none.
std::unique_ptr<const Tokenizer> config_tokenizer(const DataConfig& data);

/// The tokenizer of a model: `given` (the option --tokenizer) if not empty, or its
/// configuration's data.tokenizer, or that in its Hugging Face directory. Null when there is none.
/// InputError for
/// --tokenizer with a byte model.
std::unique_ptr<const Tokenizer> model_tokenizer(const LoadedModel& model,
                                                 const std::string& given);

}  // namespace quietformer
