#include "data/wikipedia/article.h"

#include <algorithm>
#include <array>

#include "data/wikipedia/prose.h"

namespace quietformer::wikipedia {
namespace {

// One article: the parts in order, and the facts that several of them state.
class Article {
 public:
  Article(const Lexicon& words, std::uint64_t seed, const Entity& subject, std::uint64_t state,
          std::string& out)
      : words_(words),
        subject_(subject),
        prose_(words, seed, subject, state, out),
        random_(prose_.random()),
        out_(out),
        birthplace_(words.places[random_.below(Lexicon::kPlaces)]),
        born_on_(calendar_day(random_)),
        died_on_(calendar_day(random_)),
        area_(random_.between(12, 4800)),
        population_(random_.between(120, 90000)),
        length_(kLengths[random_.below(std::size(kLengths))]) {}

  void write() {
    if (random_.percent(55)) infobox();
    lead();
    const int paragraphs = random_.between(0, 2);
    for (int i = 0; i < paragraphs; ++i) prose_.paragraph(random_.between(2, 4));
    body();
    back_matter();
  }

 private:
  static constexpr int kLengths[] = {1, 1, 1, 1, 2, 2, 3, 4, 8};

  const Nation& nation() const { return words_.nations[subject_.nation]; }
  const Noun& topic() const {
    return words_.nouns[words_.topic_word(subject_.topic, 0, Lexicon::kNouns)];
  }
  const Noun& occupation() const { return words_.occupations[subject_.occupation]; }

  // Of works: a person, unless the article mentions none.
  const Entity& author() const {
    for (const Entity& e : prose_.cast())
      if (e.kind == EntityKind::person) return e;
    return prose_.cast()[0];
  }

  static std::string linked(std::string_view target) { return "[[" + std::string(target) + "]]"; }
  void field(std::string_view name, const std::string& value) {
    out_ += "| ";
    out_ += name;
    out_.append(name.size() < 12 ? 12 - name.size() : 0, ' ');
    out_ += " = " + value + "\n";
  }

  void infobox();
  void lead();
  void person_lead();
  void place_lead();
  void body();
  void section(std::string_view heading, int level, int paragraphs);
  void titled_section(int level, int paragraphs);
  void person_body();
  void place_body();
  void work_body();
  void term_body();
  void bullet_list(int items);
  void works_list();
  void population_table();
  void back_matter();
  void categories();
  void other_languages();

  const Lexicon& words_;
  const Entity& subject_;
  Prose prose_;
  Random& random_;
  std::string& out_;
  std::string birthplace_, born_on_, died_on_;
  int area_, population_;
  int length_;  // how much longer than the shortest: multiplies the sections' texts
};

void Article::infobox() {
  switch (subject_.kind) {
    case EntityKind::person:
      out_ += "{{Infobox Biography\n";
      field("name", subject_.full);
      field("birth_date", linked(born_on_) + ", " + linked(std::to_string(subject_.begin)));
      field("birth_place", linked(birthplace_) + ", " + linked(nation().name));
      if (!subject_.lasts())
        field("death_date", linked(died_on_) + ", " + linked(std::to_string(subject_.end)));
      field("occupation", linked(occupation().singular));
      break;
    case EntityKind::place:
      out_ += "{{Infobox City\n";
      field("name", subject_.brief);
      field("country", linked(nation().name));
      field("founded", std::to_string(subject_.begin));
      field("area_km2", with_commas(area_));
      field("population", with_commas(population_));
      field("density", std::to_string(population_ / area_));
      break;
    case EntityKind::work:
      out_ += "{{Infobox Book\n";
      field("title", subject_.full);
      field("author", linked(author().full));
      field("country", linked(nation().name));
      field("language", linked(nation().adjective + " language"));
      field("published", linked(std::to_string(subject_.begin)));
      break;
    case EntityKind::term:
      out_ += "{{Infobox Term\n";
      field("name", subject_.full);
      field("field", linked(topic().singular));
      field("first use", linked(std::to_string(subject_.begin)));
      break;
  }
  out_ += "}}\n";
}

void Article::person_lead() {
  Text& text = prose_.text();
  out_ += "'''" + subject_.full + "''' (";
  if (subject_.lasts()) {
    out_ += "born " + linked(born_on_) + ", " + linked(std::to_string(subject_.begin));
  } else {
    out_ += linked(born_on_) + ", " + linked(std::to_string(subject_.begin)) + " &amp;ndash; " +
            linked(died_on_) + ", " + linked(std::to_string(subject_.end));
  }
  text.close(subject_.lasts() ? ") is" : ") was");
  prose_.indefinite_link(nation().adjective);
  prose_.link(occupation().singular);
  if (random_.percent(50)) {
    text.word("and");
    prose_.link(words_.occupations[(subject_.occupation + subject_.nation) % Lexicon::kOccupations]
                    .singular);
  }
  text.close(".");
  text.capital();
  text.word(prose_.pronoun());
  text.word("was born in");
  prose_.link(birthplace_);
  text.close(",");
  prose_.link(nation().name);
  text.close(".");
}

void Article::place_lead() {
  Text& text = prose_.text();
  out_ += "'''" + subject_.brief + "''' is a ";
  out_ += population_ > 20000 ? "city" : population_ > 2000 ? "town" : "village";
  text.close(" located in");
  prose_.link(nation().name);
  text.close(". It was founded in");
  prose_.link(std::to_string(subject_.begin));
  text.close(". As of the 2000 [[census]], it had a total population of " +
             with_commas(population_) + ".");
}

void Article::lead() {
  Text& text = prose_.text();
  text.line("");
  switch (subject_.kind) {
    case EntityKind::person:
      person_lead();
      break;
    case EntityKind::place:
      place_lead();
      break;
    case EntityKind::work:
      out_ += "'''''" + subject_.full + "''''' is a [[" + std::to_string(subject_.begin) + "]]";
      text.close(" [[novel]] by");
      text.word(linked(author().full));
      text.close(". It is about");
      prose_.phrase();
      text.close(".");
      break;
    case EntityKind::term:
      out_ += "In ";
      out_ += linked(topic().singular);
      out_ += ", ";
      out_ += is_vowel(subject_.brief[0]) ? "an" : "a";
      text.close(" '''" + subject_.brief + "''' is");
      prose_.phrase();
      text.close(".");
      break;
  }
  prose_.sentence();
  if (random_.percent(50)) prose_.reference();
  out_ += "\n\n";
}

void Article::section(std::string_view heading, int level, int paragraphs) {
  const std::string marks(static_cast<std::size_t>(level), '=');
  out_ += marks + " ";
  out_ += heading;
  out_ += " " + marks + "\n";
  for (int i = 0; i < paragraphs; ++i) prose_.paragraph(random_.between(2, 6));
  if (level > 2 || paragraphs == 0) return;
  for (int i = 1; i < length_; ++i) titled_section(3, paragraphs);
}

void Article::titled_section(int level, int paragraphs) {
  section(prose_.title(), level, paragraphs);
}

void Article::bullet_list(int items) {
  for (int i = 0; i < items; ++i) {
    prose_.text().line("* ");
    if (random_.percent(40)) {
      prose_.link(prose_.title());
      prose_.text().close(" -");
    }
    prose_.phrase();
    out_ += "\n";
  }
  out_ += "\n";
}

void Article::works_list() {
  const int items = random_.between(3, 8);
  int year = std::min(subject_.begin + random_.between(18, 30), subject_.end);
  for (int i = 0; i < items; ++i) {
    out_ += "* ''" + prose_.title() + "'' ([[" + std::to_string(year) + "]])\n";
    year = std::min(subject_.end, year + random_.between(0, 6));
  }
  out_ += "\n";
}

void Article::population_table() {
  out_ += "{| class=&quot;wikitable&quot;\n! Year !! Population !! Change\n";
  int people = population_ / random_.between(2, 8) + 20;
  int before = people;
  for (int year = 2000 - 10 * random_.between(3, 7); year <= 2000; year += 10) {
    if (year == 2000) people = population_;
    out_ += "|-\n| [[" + std::to_string(year) + "]] || " + with_commas(people) + " || ";
    out_ += people < before ? "&amp;minus;" : "+";
    out_ += with_commas(people < before ? before - people : people - before) + "\n";
    before = people;
    people += people / 100 * random_.between(-8, 40);
    people += random_.between(0, 9);
  }
  out_ += "|}\n\n";
}

void Article::person_body() {
  section("Early life", 2, random_.between(1, 2));
  prose_.set_year(std::min(subject_.end, subject_.begin + 20));
  section("Career", 2, random_.between(1, 3));
  if (random_.percent(40)) titled_section(3, random_.between(1, 2));
  if (random_.percent(50)) {
    section("Works", 2, 0);
    works_list();
  }
  if (!subject_.lasts() && random_.percent(60)) {
    prose_.set_year(subject_.end);
    section("Death and legacy", 2, random_.between(1, 2));
  }
}

void Article::place_body() {
  section("Geography", 2, 0);
  prose_.text().line("");
  prose_.text().word(subject_.brief);
  prose_.text().close(" has a total area of " + with_commas(area_) +
                      " [[square kilometre|km&amp;sup2;]], so that its "
                      "population density is " +
                      std::to_string(population_ / area_) + " per km&amp;sup2;.");
  prose_.sentence();
  out_ += "\n\n";
  section("History", 2, random_.between(1, 3));
  section("Demographics", 2, 1);
  if (random_.percent(60)) population_table();
  if (random_.percent(40)) {
    section("Notable people", 2, 0);
    for (const Entity& e : prose_.cast()) {
      if (e.kind != EntityKind::person) continue;
      out_ += "* " + linked(e.full) + " (" + std::to_string(e.begin) + "-" +
              (e.lasts() ? "" : std::to_string(e.end)) + "), " +
              words_.occupations[e.occupation].singular + "\n";
    }
    out_ += "\n";
  }
}

void Article::work_body() {
  section("Plot", 2, random_.between(1, 3));
  if (random_.percent(60)) {
    section("Characters", 2, 0);
    bullet_list(random_.between(3, 7));
  }
  section("Reception", 2, random_.between(1, 2));
}

void Article::term_body() {
  if (random_.percent(40)) section("Etymology", 2, 1);
  section("History", 2, random_.between(1, 2));
  const int sections = random_.between(0, 3);
  for (int i = 0; i < sections; ++i) {
    titled_section(2, random_.between(1, 3));
    if (random_.percent(30)) bullet_list(random_.between(3, 6));
    if (random_.percent(30)) titled_section(3, 1);
  }
}

void Article::body() {
  switch (subject_.kind) {
    case EntityKind::person:
      return person_body();
    case EntityKind::place:
      return place_body();
    case EntityKind::work:
      return work_body();
    case EntityKind::term:
      return term_body();
  }
}

void Article::categories() {
  const auto category = [&](const std::string& name) { out_ += "[[Category:" + name + "]]\n"; };
  switch (subject_.kind) {
    case EntityKind::person:
      category(std::to_string(subject_.begin) + " births|" + subject_.brief);
      if (subject_.lasts())
        category("Living people|" + subject_.brief);
      else
        category(std::to_string(subject_.end) + " deaths|" + subject_.brief);
      category(nation().adjective + " " + occupation().plural + "|" + subject_.brief);
      break;
    case EntityKind::place:
      category((population_ > 20000  ? "Cities in "
                : population_ > 2000 ? "Towns in "
                                     : "Villages in ") +
               nation().name);
      break;
    case EntityKind::work:
      category(std::to_string(subject_.begin) + " novels");
      category(nation().adjective + " novels");
      break;
    case EntityKind::term:
      category(capitalised(topic().plural));
      break;
  }
}

void Article::other_languages() {
  constexpr std::array<const char*, 8> kSameLetters = {"da", "de", "es", "fr",
                                                       "it", "nl", "pl", "sv"};
  out_ += "\n";
  for (const char* language : kSameLetters)
    if (random_.percent(30)) out_ += "[[" + std::string(language) + ":" + subject_.full + "]]\n";
  if (random_.percent(20))
    out_ += "[[el:" + transliterated(subject_.full, Alphabet::greek) + "]]\n";
  if (random_.percent(35))
    out_ += "[[ru:" + transliterated(subject_.full, Alphabet::cyrillic) + "]]\n";
}

void Article::back_matter() {
  if (random_.percent(60)) {
    out_ += "== See also ==\n";
    const std::vector<Entity>& cast = prose_.cast();
    for (std::size_t i = 0; i < cast.size(); ++i)
      if (i == 0 || random_.percent(70)) out_ += "* " + linked(cast[i].full) + "\n";
    out_ += "\n";
  }
  if (random_.percent(40)) {
    out_ += "== References ==\n";
    for (int i = random_.between(1, 4); i > 0; --i) {
      prose_.text().line("* ");
      prose_.book();
      out_ += "\n";
    }
    out_ += "\n";
  }
  if (random_.percent(55)) {
    out_ += "== External links ==\n";
    for (int i = random_.between(1, 3); i > 0; --i) {
      prose_.text().line("* ");
      prose_.web_link();
      out_ += "\n";
    }
    out_ += "\n";
  }
  categories();
  if (random_.percent(45)) other_languages();
}

}  // namespace

void append_article(const Lexicon& words, std::uint64_t seed, const Entity& subject,
                    std::uint64_t state, std::string& out) {
  Article(words, seed, subject, state, out).write();
}

}  // namespace quietformer::wikipedia
