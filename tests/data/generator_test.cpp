// The bundled text: the same everywhere, shaped like Wikipedia, well formed, with much to learn.
#include "data/generator.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <string_view>
#include <vector>

namespace quietformer {
namespace {

std::string generated(std::int64_t bytes, std::uint64_t seed = 1) {
  std::string text(static_cast<std::size_t>(bytes), '\0');
  generate_wikipedia(seed, bytes, reinterpret_cast<std::uint8_t*>(text.data()));
  return text;
}

std::uint32_t checksum(std::string_view text) {
  return static_cast<std::uint32_t>(
      crc32(0, reinterpret_cast<const Bytef*>(text.data()), static_cast<uInt>(text.size())));
}

TEST(Generator, BytesNeverChange) {
  // Results measured on the bundled text compare only while these hold, on any platform.
  EXPECT_EQ(checksum(generated(1'000'000)), 0xd1a1dc9au);
  EXPECT_EQ(checksum(generated(1'000'000, 2)), 0xfd47b62au);
}

TEST(Generator, AShorterTextBeginsALongerOne) {
  const std::string text = generated(300'000);
  for (std::int64_t size : {0, 1, 100, 4096, 123'457})
    EXPECT_TRUE(text.starts_with(generated(size))) << size;
}

TEST(Generator, LooksLikeEnwik8ToStatistics) {
  const std::string text = generated(4'000'000);
  std::array<double, 256> counts = {};
  for (unsigned char c : text) ++counts[c];
  double entropy = 0;
  for (double n : counts)
    if (n > 0) entropy -= n / double(text.size()) * std::log2(n / double(text.size()));
  EXPECT_GT(entropy, 4.5);  // enwik8: 5.08
  EXPECT_LT(entropy, 5.3);
  std::vector<Bytef> packed(compressBound(text.size()));
  uLongf size = packed.size();
  ASSERT_EQ(
      compress(packed.data(), &size, reinterpret_cast<const Bytef*>(text.data()), text.size()),
      Z_OK);
  const double ratio = double(size) / double(text.size());
  EXPECT_GT(ratio, 0.3);  // enwik8: 0.36
  EXPECT_LT(ratio, 0.42);
}

// Bits per byte of an adaptive model of orders 0 to 5, each interpolated with the one below
// (Witten and Bell), over successive pieces: what is left to learn after seeing what came before.
std::vector<double> code_lengths(std::string_view text, std::size_t piece) {
  struct Context {
    std::uint32_t total = 0, distinct = 0;
  };
  std::vector<Context> contexts(1 << 22);
  std::vector<std::uint32_t> symbols(1 << 24);
  std::vector<double> lengths;
  double bits = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto symbol = static_cast<unsigned char>(text[i]);
    double p = 1.0 / 256;
    std::uint64_t hash = 0;
    for (std::size_t order = 0; order <= 5 && order <= i; ++order) {
      if (order > 0)
        hash = (hash + static_cast<unsigned char>(text[i - order]) + 1) * 0x9E3779B97F4A7C15u;
      Context& context = contexts[hash >> 42];
      std::uint32_t& count = symbols[(hash ^ (symbol + 1) * 0xD1342543DE82EF95u) >> 40];
      if (context.total > 0)
        p = (count + context.distinct * p) / (context.total + context.distinct);
      ++context.total;
      // At least 1: a collision in the table of symbols must not leave p without a way down.
      context.distinct += count++ == 0 || context.distinct == 0;
    }
    bits -= std::log2(p);
    if ((i + 1) % piece == 0) {
      lengths.push_back(bits / double(piece));
      bits = 0;
    }
  }
  return lengths;
}

// XML's character escapes undone once.
std::string unescaped(std::string_view text) {
  constexpr std::array<std::array<std::string_view, 2>, 4> kEscapes = {
      {{"&lt;", "<"}, {"&gt;", ">"}, {"&quot;", "\""}, {"&amp;", "&"}}};
  std::string plain;
  while (!text.empty()) {
    std::size_t taken = 1;
    std::string_view out = text.substr(0, 1);
    for (const auto& [escape, character] : kEscapes) {
      if (!text.starts_with(escape)) continue;
      taken = escape.size();
      out = character;
    }
    plain += out;
    text.remove_prefix(taken);
  }
  return plain;
}

// Pages from "<page>" to "</page>".
std::vector<std::string> pages_of(const std::string& text) {
  std::vector<std::string> pages;
  for (std::size_t at = text.find("<page>"); at != std::string::npos;) {
    const std::size_t end = text.find("</page>", at);
    if (end == std::string::npos) break;
    pages.push_back(text.substr(at, end + 7 - at));
    at = text.find("<page>", end);
  }
  return pages;
}

// Why a page is not well-formed XML, or "".
std::string xml_fault(std::string_view page) {
  std::vector<std::string> open;
  for (std::size_t i = 0; i < page.size(); ++i) {
    if (page[i] == '>') return "stray >";
    if (page[i] == '&') {
      const std::string_view rest = page.substr(i);
      bool known = false;
      for (std::string_view entity : {"&lt;", "&gt;", "&quot;", "&amp;"})
        known |= rest.starts_with(entity);
      if (!known) return "stray &";
    }
    if (page[i] != '<') continue;
    const std::size_t end = page.find('>', i);
    if (end == std::string_view::npos) return "unfinished tag";
    const std::string_view tag = page.substr(i + 1, end - i - 1);
    i = end;
    if (tag.ends_with('/')) continue;
    if (!tag.starts_with('/')) {
      open.emplace_back(tag.substr(0, tag.find(' ')));
    } else {
      if (open.empty() || open.back() != tag.substr(1)) return "closes " + std::string(tag);
      open.pop_back();
    }
  }
  return open.empty() ? "" : "left open: " + open.back();
}

// Why the wikitext's pairs do not match, or "".
std::string wikitext_fault(std::string_view text) {
  constexpr std::array<std::array<std::string_view, 2>, 5> kPairs = {
      {{"[[", "]]"}, {"{{", "}}"}, {"{|", "|}"}, {"<ref>", "</ref>"}, {"(", ")"}}};
  std::vector<std::string_view> open;
  for (std::size_t i = 0; i < text.size(); ++i)
    for (const auto& [left, right] : kPairs) {
      const std::string_view rest = text.substr(i);
      if (rest.starts_with(left)) {
        open.push_back(right);
        i += left.size() - 1;
        break;
      }
      if (rest.starts_with(right)) {
        if (open.empty() || open.back() != right) return "unexpected " + std::string(right);
        open.pop_back();
        i += right.size() - 1;
        break;
      }
    }
  if (!open.empty()) return "missing " + std::string(open.back());
  std::size_t begin = 0;
  while (begin < text.size()) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = text.substr(begin, end - begin);
    begin = end + 1;
    int quotes = 0, apostrophes = 0;
    for (char c : line) {
      quotes += c == '"';
      apostrophes += c == '\'';
    }
    if (quotes % 2 != 0 || apostrophes % 2 != 0) return "odd quotes in: " + std::string(line);
  }
  return "";
}

std::string between(const std::string& page, std::string_view left, std::string_view right) {
  const std::size_t begin = page.find(left);
  if (begin == std::string::npos) return "";
  const std::size_t end = page.find(right, begin + left.size());
  return page.substr(begin + left.size(), end - begin - left.size());
}

TEST(Generator, PagesAreWellFormed) {
  const std::vector<std::string> pages = pages_of(generated(3'000'000));
  ASSERT_GT(pages.size(), 500u);
  for (const std::string& page : pages) {
    ASSERT_EQ(xml_fault(page), "") << page;
    const std::string text = unescaped(between(page, "<text xml:space=\"preserve\">", "</text>"));
    ASSERT_FALSE(text.empty());
    ASSERT_EQ(wikitext_fault(text), "") << page;
  }
  // The checkers can fail.
  EXPECT_NE(xml_fault(pages[0].substr(0, pages[0].size() - 3)), "");
  EXPECT_NE(xml_fault("<a><b></a></b>"), "");
  EXPECT_NE(xml_fault("<a>x & y</a>"), "");
  EXPECT_NE(wikitext_fault("[[a}}"), "");
  EXPECT_NE(wikitext_fault("(a"), "");
  EXPECT_NE(wikitext_fault("''a'"), "");
}

TEST(Generator, ArticlesAgreeWithThemselves) {
  const std::vector<std::string> pages = pages_of(generated(3'000'000));
  int people = 0, titled = 0;
  for (const std::string& page : pages) {
    const std::string title = between(page, "<title>", "</title>");
    const std::string text = between(page, "<text", "</text>");
    if (text.find("#REDIRECT") != std::string::npos) continue;
    titled += text.find("'''" + title.substr(0, title.find(','))) != std::string::npos;
    const std::string birth = between(page, "[[Category:", " births");
    if (birth.size() != 4) continue;
    ++people;
    EXPECT_NE(text.find("[[" + birth + "]]"), std::string::npos) << page;
    const std::size_t death = text.find(" deaths|");
    if (death != std::string::npos) {
      const std::string year = text.substr(death - 4, 4);
      EXPECT_GE(year, birth);
      EXPECT_NE(text.find("[[" + year + "]]) was"), std::string::npos) << page;
    }
    // In running text "he" or "she", never both.
    const bool he = text.find("He was born in") != std::string::npos;
    EXPECT_EQ(text.find(he ? " she " : " he "), std::string::npos) << page;
  }
  EXPECT_GT(people, 100);
  EXPECT_GT(titled, people);
}

TEST(Generator, KeepsTeaching) {
  const std::vector<double> lengths = code_lengths(generated(6'000'000), 1'000'000);
  for (std::size_t i = 1; i < lengths.size(); ++i)
    EXPECT_LT(lengths[i], lengths[i - 1]) << "piece " << i;
  EXPECT_LT(lengths.back(), 0.85 * lengths.front());
  EXPECT_GT(lengths.back(), 1.3);  // and is not soon learnt by heart
}

}  // namespace
}  // namespace quietformer
