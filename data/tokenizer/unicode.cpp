#include "data/tokenizer/unicode.h"

#include <unicode/uchar.h>
#include <unicode/unorm2.h>
#include <unicode/utf16.h>

#include <algorithm>
#include <array>
#include <span>

#include "core/check.h"

namespace quietformer::unicode {
namespace {

struct Version {
  int major, minor;
};
constexpr Version kPattern{16, 0};
constexpr Version kDecomposition{9, 0};
constexpr Version kBert{8, 0};

/// Whether the character was assigned in that version of Unicode already.
bool known(char32_t c, Version version) {
  UVersionInfo age;
  u_charAge(static_cast<UChar32>(c), age);
  if (age[0] == 0) return false;
  return age[0] < version.major || (age[0] == version.major && age[1] <= version.minor);
}

std::uint32_t type_mask(char32_t c) {
  return U_MASK(u_charType(static_cast<UChar32>(c)));
}

struct Range {
  char32_t first, last;
};

// New in Unicode 15.1 and 16.0: Debian 12 has an ICU of 15.0.
constexpr std::array kNewLetters{
    Range{0x1C89, 0x1C8A},   Range{0xA7CB, 0xA7CD},   Range{0xA7DA, 0xA7DC},
    Range{0x105C0, 0x105F3}, Range{0x10D4A, 0x10D65}, Range{0x10D6F, 0x10D85},
    Range{0x10EC2, 0x10EC4}, Range{0x11380, 0x11389}, Range{0x1138B, 0x1138B},
    Range{0x1138E, 0x1138E}, Range{0x11390, 0x113B5}, Range{0x113B7, 0x113B7},
    Range{0x113D1, 0x113D1}, Range{0x113D3, 0x113D3}, Range{0x11BC0, 0x11BE0},
    Range{0x13460, 0x143FA}, Range{0x16100, 0x1611D}, Range{0x16D40, 0x16D6C},
    Range{0x18CFF, 0x18CFF}, Range{0x1E5D0, 0x1E5ED}, Range{0x1E5F0, 0x1E5F0},
    Range{0x2EBF0, 0x2EE5D},
};
constexpr std::array kNewNumbers{
    Range{0x10D40, 0x10D49}, Range{0x116D0, 0x116E3}, Range{0x11BF0, 0x11BF9},
    Range{0x16130, 0x16139}, Range{0x16D70, 0x16D79}, Range{0x1CCF0, 0x1CCF9},
    Range{0x1E5F1, 0x1E5FA},
};
constexpr std::array kNewMarks{
    Range{0x0897, 0x0897},   Range{0x10D69, 0x10D6D}, Range{0x10EFC, 0x10EFC},
    Range{0x113B8, 0x113C0}, Range{0x113C2, 0x113C2}, Range{0x113C5, 0x113C5},
    Range{0x113C7, 0x113CA}, Range{0x113CC, 0x113D0}, Range{0x113D2, 0x113D2},
    Range{0x113E1, 0x113E2}, Range{0x11F5A, 0x11F5A}, Range{0x1611E, 0x1612F},
    Range{0x1E5EE, 0x1E5EF},
};

// Capitals new in Unicode 16.0 and 17.0 with the distance to their small letters.
struct NewCapitals {
  Range range;
  std::int32_t distance;
};
constexpr std::array kNewCapitals{
    NewCapitals{{0x1C89, 0x1C89}, 1},      NewCapitals{{0xA7CB, 0xA7CB}, 0x264 - 0xA7CB},
    NewCapitals{{0xA7CC, 0xA7CC}, 1},      NewCapitals{{0xA7CE, 0xA7CE}, 1},
    NewCapitals{{0xA7D2, 0xA7D2}, 1},      NewCapitals{{0xA7D4, 0xA7D4}, 1},
    NewCapitals{{0xA7DA, 0xA7DA}, 1},      NewCapitals{{0xA7DC, 0xA7DC}, 0x19B - 0xA7DC},
    NewCapitals{{0x10D50, 0x10D65}, 0x20}, NewCapitals{{0x16EA0, 0x16EB8}, 0x1B},
};

bool contains(std::span<const Range> ranges, char32_t c) {
  const auto after = std::upper_bound(ranges.begin(), ranges.end(), c,
                                      [](char32_t x, const Range& r) { return x < r.first; });
  return after != ranges.begin() && c <= std::prev(after)->last;
}

Class look_up(char32_t c) {
  if (is_space(c)) return Class::space;
  if (known(c, kPattern)) {
    const std::uint32_t mask = type_mask(c);
    return (mask & U_GC_L_MASK) != 0   ? Class::letter
           : (mask & U_GC_N_MASK) != 0 ? Class::number
                                       : Class::other;
  }
  if (contains(kNewLetters, c)) return Class::letter;
  return contains(kNewNumbers, c) ? Class::number : Class::other;
}

// Most text is below.
constexpr char32_t kQuick = 0x3100;

std::array<Class, kQuick> quick_table() {
  std::array<Class, kQuick> table;
  for (char32_t c = 0; c < kQuick; ++c) table[c] = look_up(c);
  return table;
}

}  // namespace

Class classify(char32_t c) {
  static const std::array<Class, kQuick> table = quick_table();
  return c < kQuick ? table[c] : look_up(c);
}

bool is_space(char32_t c) {
  if (c < 0x80) return c == ' ' || (c >= '\t' && c <= '\r');
  return u_isUWhiteSpace(static_cast<UChar32>(c)) != 0;
}

bool is_word(char32_t c) {
  if (c < 0x80) return (c | 0x20) - 'a' < 26 || c - '0' < 10 || c == '_';
  if (known(c, kPattern))
    return (type_mask(c) & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK)) != 0 ||
           u_isUAlphabetic(static_cast<UChar32>(c)) != 0 || c == 0x200C || c == 0x200D;
  return contains(kNewLetters, c) || contains(kNewNumbers, c) || contains(kNewMarks, c);
}

bool is_control(char32_t c) {
  if (c < 0x80) return c < 0x20 || c == 0x7F;
  return (type_mask(c) & (U_GC_CC_MASK | U_GC_CF_MASK | U_GC_CO_MASK)) != 0 && known(c, kBert);
}

bool is_punctuation(char32_t c) {
  if (c < 0x80) return c > 0x20 && c < 0x7F && !is_word(c) | (c == '_');
  // Classed otherwise since Unicode 12 and 11.
  if (c == 0x166D || c == 0x111C9) return true;
  return (type_mask(c) & U_GC_P_MASK) != 0 && known(c, kBert);
}

bool is_mark(char32_t c) {
  if (c < 0x300) return false;
  // Classed otherwise since Unicode 14, 9 and 11 (the last two).
  if (c == 0x1734) return true;
  if (c == 0x1885 || c == 0x1886 || c == 0xA9BD || c == 0x111C9) return false;
  return (type_mask(c) & U_GC_MN_MASK) != 0 && known(c, kBert);
}

void append_lower(char32_t c, std::u32string& out) {
  if (c < 0x80) {
    out += c >= 'A' && c <= 'Z' ? c + 0x20 : c;
    return;
  }
  if (c == 0x130) {
    out += U"i\u0307";
    return;
  }
  const auto lower = static_cast<char32_t>(u_tolower(static_cast<UChar32>(c)));
  if (lower == c)
    for (const NewCapitals& capitals : kNewCapitals)
      if (c >= capitals.range.first && c <= capitals.range.last) {
        out += static_cast<char32_t>(static_cast<std::int32_t>(c) + capitals.distance);
        return;
      }
  out += lower;
}

void append_decomposition(char32_t c, std::u32string& out) {
  if (c < 0xC0 || !known(c, kDecomposition)) {
    out += c;
    return;
  }
  static const UNormalizer2* const nfd = [] {
    UErrorCode error = U_ZERO_ERROR;
    const UNormalizer2* instance = unorm2_getNFDInstance(&error);
    QF_EXPECTS(U_SUCCESS(error));
    return instance;
  }();
  std::array<UChar, 32> units;  // the longest canonical decomposition has 4 characters
  UErrorCode error = U_ZERO_ERROR;
  const std::int32_t count = unorm2_getDecomposition(nfd, static_cast<UChar32>(c), units.data(),
                                                     std::int32_t{units.size()}, &error);
  QF_EXPECTS(U_SUCCESS(error));
  if (count < 0) {
    out += c;
    return;
  }
  for (std::int32_t i = 0; i < count;) {
    UChar32 part;
    U16_NEXT(units.data(), i, count, part);
    out += static_cast<char32_t>(part);
  }
}

int combining_class(char32_t c) {
  return c < 0x300 || !known(c, kDecomposition) ? 0 : u_getCombiningClass(static_cast<UChar32>(c));
}

}  // namespace quietformer::unicode
