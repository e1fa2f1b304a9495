// Splitting text into words, inside which the model looks for tokens: the steps of tokenizer.json's
// `pre_tokenizer`.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "data/tokenizer/spec.h"

namespace quietformer {

/// Calls `word` with the words of one piece of text, in order. `first`: the piece is the beginning
/// of the whole text. The views are good during the call alone. byte_level words are bytes, not yet
/// the characters that stand for them in a vocabulary.
void split_words(const PreTokenizerSpec& spec, std::string_view piece, bool first,
                 const std::function<void(std::string_view)>& word);

}  // namespace quietformer
