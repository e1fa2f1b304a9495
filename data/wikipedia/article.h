// The wikitext of articles.
#pragma once

#include <cstdint>
#include <string>

#include "data/wikipedia/entity.h"

namespace quietformer::wikipedia {

/// Appends the text of the article about `subject`, escaped for XML. `state` seeds its randomness.
void append_article(const Lexicon& words, std::uint64_t seed, const Entity& subject,
                    std::uint64_t state, std::string& out);

}  // namespace quietformer::wikipedia
