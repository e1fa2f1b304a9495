// The bundled text: a dump of an encyclopedia that never was.
#pragma once

#include <cstdint>

namespace quietformer {

/// Writes the first `bytes` bytes of the text of `seed`: Wikipedia-like XML (pages with title, ids,
/// time, contributor and wikitext) in an invented language. Every seed has its own words, with
/// Zipf's frequencies, inflection and habits of going together, and its own people, places, works
/// and terms, whose facts agree wherever they are mentioned. There is something to learn at every
/// distance: spelling, agreement, brackets that close, names and years that come back, tags that
/// match over a page.
///
/// Integer arithmetic only: the same (seed, position) gives the same byte on every platform, and a
/// shorter text is the beginning of a longer one. Needs about 4 MB besides `out`.
void generate_wikipedia(std::uint64_t seed, std::int64_t bytes, std::uint8_t* out);

}  // namespace quietformer
