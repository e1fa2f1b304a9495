#include "data/generator.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "core/check.h"
#include "data/wikipedia/page.h"

namespace quietformer {

void generate_wikipedia(std::uint64_t seed, std::int64_t bytes, std::uint8_t* out) {
  QF_EXPECTS(bytes >= 0);
  const wikipedia::Lexicon words(seed);
  std::string text;
  wikipedia::append_prolog(text);
  for (std::uint32_t page = 0; bytes > 0; ++page) {
    wikipedia::append_page(words, seed, page, text);
    const std::int64_t count = std::min(bytes, static_cast<std::int64_t>(text.size()));
    std::memcpy(out, text.data(), static_cast<std::size_t>(count));
    out += count;
    bytes -= count;
    text.clear();
  }
}

}  // namespace quietformer
