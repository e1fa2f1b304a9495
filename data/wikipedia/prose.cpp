#include "data/wikipedia/prose.h"

#include <algorithm>

namespace quietformer::wikipedia {
namespace {

constexpr const char* kMonths[] = {"January",   "February", "March",    "April",
                                   "May",       "June",     "July",     "August",
                                   "September", "October",  "November", "December"};
constexpr const char* kPublic[] = {"org", "com", "com", "net", "edu", "gov"};

}  // namespace

std::string calendar_day(Random& random) {
  const std::string month = pick(random, kMonths);
  return month + " " + std::to_string(random.between(1, 28));
}

Prose::Prose(const Lexicon& words, std::uint64_t seed, const Entity& subject, std::uint64_t state,
             std::string& out)
    : words_(words),
      seed_(seed),
      subject_(subject),
      random_(state),
      text_(out),
      tense_(subject.kind == EntityKind::term || subject.kind == EntityKind::work ? Tense::present
                                                                                  : Tense::past),
      year_(subject.begin) {
  choose_cast();
}

void Prose::choose_cast() {
  const int size = random_.between(3, 7);
  for (int i = 0; i < size; ++i) {
    Entity candidate = make_entity(words_, seed_, words_.entity_ranks.draw(random_));
    // Articles mostly mention others of their own topic or nation.
    for (int attempt = 0; attempt < 6; ++attempt) {
      if (candidate.topic == subject_.topic || candidate.nation == subject_.nation) break;
      candidate = make_entity(words_, seed_, words_.entity_ranks.draw(random_));
    }
    if (candidate.id == subject_.id) continue;
    cast_.push_back(std::move(candidate));
  }
  if (cast_.empty()) cast_.push_back(make_entity(words_, seed_, subject_.id + 1));
  linked_.assign(cast_.size(), false);
}

std::string_view Prose::pronoun() const {
  if (subject_.kind != EntityKind::person) return "it";
  return subject_.gender == 0 ? "he" : "she";
}

std::string_view Prose::possessive() const {
  if (subject_.kind != EntityKind::person) return "its";
  return subject_.gender == 0 ? "his" : "her";
}

int Prose::next_year() {
  return year_ = std::min(subject_.end, year_ + static_cast<int>(random_.below(5)));
}

std::uint32_t Prose::pick_noun() {
  const std::uint32_t way = random_.below(100);
  const std::uint32_t kept =
      static_cast<std::uint32_t>(std::min<std::size_t>(recent_count_, recent_nouns_.size()));
  if (way < 22 && kept > 0) return recent_nouns_[random_.below(kept)];
  const std::uint32_t noun =
      way < 60
          ? words_.topic_word(subject_.topic, words_.topic_ranks.draw(random_), Lexicon::kNouns)
          : words_.noun_ranks.draw(random_);
  recent_nouns_[recent_count_++ % recent_nouns_.size()] = noun;
  return noun;
}

std::uint32_t Prose::pick_adjective() {
  if (random_.percent(45))
    return words_.topic_word(subject_.topic, 512 + words_.topic_ranks.draw(random_),
                             Lexicon::kAdjectives);
  return words_.adjective_ranks.draw(random_);
}

std::uint32_t Prose::pick_verb(std::uint32_t habit) {
  return random_.percent(50) ? words_.verb_of(habit, random_.below(3))
                             : words_.verb_ranks.draw(random_);
}

void Prose::link(std::string_view target) {
  text_.open("[[");
  text_.word(target);
  text_.close("]]");
}

void Prose::indefinite_link(std::string_view noun) {
  text_.word(is_vowel(noun[0]) ? "an" : "a");
  link(noun);
}

void Prose::cast_mention(std::size_t index) {
  const Entity& e = cast_[index];
  const bool italic = e.kind == EntityKind::work;
  if (italic) text_.open("''");
  if (!linked_[index]) {
    linked_[index] = true;
    text_.open("[[");
    text_.word(e.full);
    if (e.brief != e.full && random_.percent(30)) text_.close("|" + e.brief);
    text_.close("]]");
  } else {
    text_.word(random_.percent(85) ? e.brief : e.full);
  }
  if (italic) text_.close("''");
}

std::string Prose::title() {
  const std::uint32_t noun = pick_noun();
  const Noun& n = words_.nouns[noun];
  if (random_.percent(35)) return capitalised(n.plural);
  const std::uint32_t adjective = words_.adjective_of(noun, random_.below(3));
  return capitalised(words_.adjectives[adjective].plain) + " " +
         (random_.percent(50) ? n.singular : n.plural);
}

void Prose::book() {
  const Entity author = make_entity(words_, seed_, words_.entity_ranks.draw(random_));
  text_.word(words_.families[random_.below(Lexicon::kFamilies)]);
  text_.close(",");
  text_.word(words_.given[author.gender][words_.given_ranks.draw(random_)]);
  text_.close(".");
  text_.open("''");
  text_.word(title());
  text_.close("'',");
  text_.word(std::to_string(random_.between(1900, 2005)));
  text_.close(".");
}

void Prose::web_link() {
  const std::string& host = words_.nouns[pick_noun()].singular;
  text_.open("[http://www.");
  text_.raw() += host + "." + pick(random_, kPublic);
  text_.raw() += '/';
  if (random_.percent(70)) {
    text_.raw() += words_.nouns[pick_noun()].plural;
    text_.raw() += random_.percent(50) ? "/" : ".html";
  }
  text_.close(" ");
  text_.raw() += title();
  text_.close("]");
}

void Prose::reference() {
  text_.close("&lt;ref&gt;");
  text_.line("");
  if (random_.percent(55))
    book();
  else
    web_link();
  text_.close("&lt;/ref&gt;");
}

}  // namespace quietformer::wikipedia
