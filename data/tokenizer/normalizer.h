// Normalisation of text: the steps of tokenizer.json's `normalizer`.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer/spec.h"

namespace quietformer {

/// Applies the steps in turn; what is not UTF-8 becomes U+FFFD (utf8.h).
std::string normalize(const std::vector<NormalizerStep>& steps, std::string_view text);

}  // namespace quietformer
