// One page of the dump.
#pragma once

#include <cstdint>
#include <string>

#include "data/wikipedia/lexicon.h"

namespace quietformer::wikipedia {

/// What comes before the first page: the root element's start and the site's description.
void append_prolog(std::string& out);

/// Appends page `index`, "  <page>\n" to "  </page>\n": a function of (seed, index) alone. About
/// one page in nine redirects to another.
void append_page(const Lexicon& words, std::uint64_t seed, std::uint32_t index, std::string& out);

}  // namespace quietformer::wikipedia
