#include "data/tokenizer/added_tokens.h"

#include <algorithm>

#include "data/tokenizer/unicode.h"
#include "data/tokenizer/utf8.h"

namespace quietformer {
namespace {

bool word_before(std::string_view text, std::size_t at) {
  return at > 0 && unicode::is_word(character_before(text, at).code);
}

bool word_at(std::string_view text, std::size_t at) {
  return at < text.size() && unicode::is_word(character_at(text, at).code);
}

// Not further than to `least`.
std::size_t before_space(std::string_view text, std::size_t at, std::size_t least) {
  while (at > least) {
    const Character c = character_before(text, at);
    if (!unicode::is_space(c.code)) break;
    at -= c.bytes;
  }
  return at;
}

std::size_t after_space(std::string_view text, std::size_t at) {
  while (at < text.size()) {
    const Character c = character_at(text, at);
    if (!unicode::is_space(c.code)) break;
    at += c.bytes;
  }
  return at;
}

}  // namespace

void AddedTokens::add(const AddedToken& token, std::string pattern) {
  if (pattern.empty()) return;
  begins_[static_cast<unsigned char>(pattern.front())] = true;
  const auto place = std::upper_bound(
      patterns_.begin(), patterns_.end(), pattern,
      [](const std::string& text, const Pattern& p) { return text.size() > p.text.size(); });
  patterns_.insert(place, {std::move(pattern), token});
}

const AddedTokens::Pattern* AddedTokens::longest_at(std::string_view text, std::size_t at) const {
  if (!begins_[static_cast<unsigned char>(text[at])]) return nullptr;
  for (const Pattern& pattern : patterns_)
    if (text.substr(at).starts_with(pattern.text)) return &pattern;
  return nullptr;
}

std::vector<Piece> AddedTokens::split(std::string_view text) const {
  std::vector<Piece> pieces;
  std::size_t done = 0;
  const auto add_text = [&](std::size_t end) {
    if (done < end) pieces.push_back({text.substr(done, end - done)});
  };
  for (std::size_t at = 0; at < text.size() && !patterns_.empty();) {
    const Pattern* const found = longest_at(text, at);
    if (found == nullptr) {
      ++at;
      continue;
    }
    std::size_t begin = at, end = at + found->text.size();
    at = end;  // also where the token is not taken
    const AddedToken& token = found->token;
    if (token.single_word && (word_before(text, begin) || word_at(text, end))) continue;
    if (token.lstrip) begin = before_space(text, begin, done);
    if (token.rstrip) end = after_space(text, end);
    add_text(begin);
    pieces.push_back({text.substr(begin, end - begin), token.id});
    done = end;
  }
  add_text(text.size());
  return pieces;
}

}  // namespace quietformer
