// Properties of characters as `tokenizers` sees them. Its parts know different versions of Unicode:
// the pattern of byte-level BPE 16.0, lower case 17.0, decomposition 9.0, and BERT's classes
// (control, punctuation, marks) 8.0. Values come from ICU, restricted to characters of that version
// or before; what an older ICU does not know yet is in a table.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace quietformer::unicode {

/// \p{L}, \p{N}, \s and the rest: what GPT-2's pattern tells apart.
enum class Class : std::uint8_t { letter, number, space, other };
Class classify(char32_t c);

bool is_space(char32_t c);        // White_Space
bool is_word(char32_t c);         // \w: Alphabetic, M, Nd, Pc, Join_Control
bool is_control(char32_t c);      // Cc, Cf, Co of Unicode 8
bool is_punctuation(char32_t c);  // ASCII's, and P of Unicode 8
bool is_mark(char32_t c);         // Mn of Unicode 8

/// Appends the lower case of one character (two characters for U+0130).
void append_lower(char32_t c, std::u32string& out);
/// Appends the full canonical decomposition of one character.
void append_decomposition(char32_t c, std::u32string& out);
/// Canonical_Combining_Class.
int combining_class(char32_t c);

}  // namespace quietformer::unicode
