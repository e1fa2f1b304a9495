// Text as the tokens of a tokenizer.
#pragma once

#include <memory>

#include "data/source.h"

namespace quietformer {

/// open_source() for SourceKind::tokens with a tokenizer.
std::unique_ptr<TokenSource> open_encoded_text(const SourceRequest& request);

}  // namespace quietformer
