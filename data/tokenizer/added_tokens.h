// Tokens that are looked for in the text itself.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer/spec.h"

namespace quietformer {

/// A part of a text: one added token, or text for the model.
struct Piece {
  std::string_view text;
  std::int32_t id = -1;  // -1: text
};

/// Finds added tokens: the leftmost, of several at one place the longest, none over another.
class AddedTokens {
 public:
  /// `patterns[i]` is what to look for as `tokens[i]`; an empty one is never found.
  void add(const AddedToken& token, std::string pattern);

  /// Cuts `text` into pieces in order, texts of no length left out; the white space that lstrip and
  /// rstrip take belongs to the token. The pieces are views of `text`.
  std::vector<Piece> split(std::string_view text) const;

 private:
  struct Pattern {
    std::string text;
    AddedToken token;
  };
  const Pattern* longest_at(std::string_view text, std::size_t at) const;

  std::vector<Pattern> patterns_;   // the longest first
  std::array<bool, 256> begins_{};  // whether a pattern begins with this byte
};

}  // namespace quietformer
