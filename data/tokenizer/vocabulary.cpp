#include "data/tokenizer/vocabulary.h"

#include <fmt/format.h>

#include <array>

#include "core/check.h"
#include "core/log.h"

namespace quietformer {
namespace {

struct ByteAlphabet {
  std::array<char32_t, 256> characters{};
  std::array<int, 512> bytes{};

  ByteAlphabet() {
    bytes.fill(-1);
    char32_t next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      const bool seen = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte != 0xAD);
      const char32_t c = seen ? static_cast<char32_t>(byte) : next++;
      characters[static_cast<std::size_t>(byte)] = c;
      bytes[c] = byte;
    }
  }
};

const ByteAlphabet& alphabet() {
  static const ByteAlphabet instance;
  return instance;
}

}  // namespace

void Vocabulary::add(std::string token, std::int32_t id, const std::string& where) {
  const auto [place, fresh] = ids_.emplace(std::move(token), id);
  if (!fresh)
    throw InputError(fmt::format("{}: token '{}' is there twice, as {} and as {}", where,
                                 one_line(place->first, 60), place->second, id));
  const auto [other, free] = tokens_.emplace(id, &place->first);
  if (!free)
    throw InputError(fmt::format("{}: id {} belongs to '{}' and to '{}'", where, id,
                                 one_line(*other->second, 60), one_line(place->first, 60)));
  longest_ = std::max(longest_, place->first.size());
}

const std::string* Vocabulary::token(std::int32_t id) const {
  const auto found = tokens_.find(id);
  return found == tokens_.end() ? nullptr : found->second;
}

std::int32_t Vocabulary::first_hole() const {
  std::int32_t id = 0;
  while (tokens_.contains(id)) ++id;
  return id;
}

char32_t character_of_byte(std::uint8_t byte) {
  return alphabet().characters[byte];
}

int byte_of_character(char32_t c) {
  return c < alphabet().bytes.size() ? alphabet().bytes[c] : -1;
}

}  // namespace quietformer
