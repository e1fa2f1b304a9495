// UTF-8, one character at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace quietformer {

struct Character {
  char32_t code = 0;
  std::size_t bytes = 0;
  bool valid = true;  // false: not UTF-8; `bytes` is a maximal prefix of a sequence (Unicode 15,
                      // 3.9, which is what U+FFFD stands for) and `code` U+FFFD
};

/// The character at `at`, which lies inside the text.
inline Character character_at(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) -> unsigned {
    return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0u;
  };
  const unsigned first = byte(0);
  if (first < 0x80) return {static_cast<char32_t>(first), 1, true};
  const std::size_t length = first < 0xC2   ? 0
                             : first < 0xE0 ? 2
                             : first < 0xF0 ? 3
                             : first < 0xF5 ? 4
                                            : 0;
  if (length == 0) return {0xFFFD, 1, false};
  // The second byte's range keeps out overlong forms, surrogates and what is beyond U+10FFFF.
  const unsigned least = first == 0xE0 ? 0xA0u : first == 0xF0 ? 0x90u : 0x80u;
  const unsigned most = first == 0xED ? 0x9Fu : first == 0xF4 ? 0x8Fu : 0xBFu;
  char32_t code = first & (0xFFu >> (length + 1));
  for (std::size_t i = 1; i < length; ++i) {
    const unsigned next = byte(i);
    if (next < (i == 1 ? least : 0x80u) || next > (i == 1 ? most : 0xBFu))
      return {0xFFFD, i, false};
    code = code << 6 | (next & 0x3F);
  }
  return {code, length, true};
}

/// The character that ends before `end`, which is above 0.
inline Character character_before(std::string_view text, std::size_t end) {
  for (std::size_t bytes = 1; bytes <= 4 && bytes <= end; ++bytes) {
    const Character c = character_at(text, end - bytes);
    if (c.valid && c.bytes == bytes) return c;
  }
  return {0xFFFD, 1, false};
}

inline void append_utf8(char32_t code, std::string& out) {
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xC0 | code >> 6);
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    out += static_cast<char>(0xE0 | code >> 12);
    out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | code >> 18);
    out += static_cast<char>(0x80 | (code >> 12 & 0x3F));
    out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  }
}

/// The text with U+FFFD for every maximal prefix of a sequence that is not UTF-8.
std::string valid_utf8(std::string_view text);

/// The text with `content` for every `pattern`, which is not empty, from left to right.
std::string replace_all(std::string_view text, std::string_view pattern, std::string_view content);

}  // namespace quietformer
