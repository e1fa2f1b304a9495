// Memory-mapped files of 16-bit token ids.
#pragma once

#include <memory>

#include "data/source.h"

namespace quietformer {

/// open_source() for SourceKind::tokens.
std::unique_ptr<TokenSource> open_token_file(const SourceRequest& request);

}  // namespace quietformer
