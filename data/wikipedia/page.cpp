#include "data/wikipedia/page.h"

#include "data/wikipedia/article.h"

namespace quietformer::wikipedia {
namespace {

constexpr const char* kComments[] = {"copyedit",       "link fix",  "spelling", "rvv",  "wikify",
                                     "disambiguation", "interwiki", "fmt",      "+cat", "clean up"};

// ":07" and the like.
void append_number(std::string_view before, int n, std::string& out) {
  out += before;
  out += static_cast<char>('0' + n / 10);
  out += static_cast<char>('0' + n % 10);
}

void append_timestamp(Random& random, std::string& out) {
  const int year = random.percent(70) ? random.between(2005, 2006) : random.between(2002, 2004);
  out += "      <timestamp>" + std::to_string(year);
  append_number("-", random.between(1, 12), out);
  append_number("-", random.between(1, 28), out);
  append_number("T", random.between(0, 23), out);
  append_number(":", random.between(0, 59), out);
  append_number(":", random.between(0, 59), out);
  out += "Z</timestamp>\n";
}

void append_contributor(const Lexicon& words, std::uint64_t seed, Random& random,
                        std::string& out) {
  out += "      <contributor>\n";
  if (random.percent(18)) {
    out += "        <ip>" + std::to_string(random.between(4, 220));
    for (int i = 0; i < 3; ++i) out += "." + std::to_string(random.between(0, 255));
    out += "</ip>\n";
  } else {
    const std::uint32_t user = words.user_ranks.draw(random);
    out += "        <username>" + words.users[user] + "</username>\n        <id>";
    out += std::to_string(mix(seed + 11, user) % 900000 + 100) + "</id>\n";  // always the same one
  }
  out += "      </contributor>\n";
}

void append_comment(Random& random, const Entity& subject, std::string& out) {
  if (random.percent(28)) out += "      <minor />\n";
  if (random.percent(60)) {
    out += "      <comment>";
    if (random.percent(30)) out += "/* " + subject.brief + " */ ";
    out += pick(random, kComments);
    out += "</comment>\n";
  }
}

}  // namespace

void append_prolog(std::string& out) {
  out +=
      "<mediawiki xmlns=\"http://www.mediawiki.org/xml/export-0.3/\" version=\"0.3\" "
      "xml:lang=\"en\">\n"
      "  <siteinfo>\n"
      "    <sitename>Wikipedia</sitename>\n"
      "    <generator>quietformer</generator>\n"
      "    <case>first-letter</case>\n"
      "  </siteinfo>\n";
}

void append_page(const Lexicon& words, std::uint64_t seed, std::uint32_t index, std::string& out) {
  Random random(mix(seed + 0x70616765, index));
  const Entity subject = make_entity(words, seed, index);
  const bool redirect = random.percent(11);
  // A redirect's title is another way to write the name of the page it leads to.
  out += "  <page>\n    <title>" + (redirect ? alternative_title(subject, random) : subject.full);
  out += "</title>\n    <id>" + std::to_string(10 + 3 * index + random.below(3)) + "</id>\n";
  out +=
      "    <revision>\n      <id>" + std::to_string(15000000 + random.below(27000000)) + "</id>\n";
  append_timestamp(random, out);
  append_contributor(words, seed, random, out);
  append_comment(random, subject, out);
  out += "      <text xml:space=\"preserve\">";
  if (redirect)
    out += "#REDIRECT [[" + subject.full + "]]";
  else
    append_article(words, seed, subject, random.next(), out);
  out += "</text>\n    </revision>\n  </page>\n";
}

}  // namespace quietformer::wikipedia
