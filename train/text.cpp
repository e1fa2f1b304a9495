#include "train/text.h"

#include <fmt/format.h>

#include "core/check.h"

namespace quietformer {

void choose_text(SourceRequest& request, const Tokenizer* tokenizer) {
  const bool text = request.kind == SourceKind::tokens && !request.path.ends_with(".bin");
  request.tokenizer = text ? tokenizer : nullptr;
}

std::unique_ptr<const Tokenizer> config_tokenizer(const DataConfig& data) {
  return data.tokenizer.empty() ? nullptr : open_tokenizer(data.tokenizer);
}

std::unique_ptr<const Tokenizer> model_tokenizer(const LoadedModel& model,
                                                 const std::string& given) {
  const bool bytes = model.trained_here && model.config.data.source == "bytes";
  if (!given.empty() && bytes)
    throw InputError(fmt::format("--tokenizer: {} is a model of bytes", model.path));
  if (!given.empty()) return open_tokenizer(given);
  if (model.trained_here || !model.config.data.tokenizer.empty())
    return config_tokenizer(model.config.data);
  return has_tokenizer(model.path) ? open_tokenizer(model.path) : nullptr;
}

}  // namespace quietformer
