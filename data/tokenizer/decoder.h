// From tokens back to text: the steps of tokenizer.json's `decoder`.
#pragma once

#include <string>
#include <vector>

#include "data/tokenizer/spec.h"

namespace quietformer {

/// The text of tokens; consumes them. Bytes stay as they are (tokenizer.h).
std::string decode_tokens(const std::vector<DecoderStep>& steps, std::vector<std::string> tokens);

}  // namespace quietformer
