// The grammar: sentences, clauses, phrases.
#include "data/wikipedia/prose.h"

namespace quietformer::wikipedia {
namespace {

constexpr const char* kConnectives[] = {"however",       "moreover",    "in addition",
                                        "by contrast",   "for example", "as a result",
                                        "in particular", "at first"};
constexpr const char* kSubordinators[] = {"although", "when", "because", "while", "after", "if"};
constexpr const char* kConjunctions[] = {"and", "but", "while", "so"};
constexpr const char* kCounts[] = {"two",  "three", "four", "several",
                                   "many", "some",  "most", "few"};

}  // namespace

void Prose::determiner(Number number, std::string_view next) {
  const std::uint32_t r = random_.below(100);
  if (number == Number::plural) {
    if (r < 40) return;
    text_.word(r < 70 ? "the" : r < 76 ? "these" : r < 84 ? possessive() : pick(random_, kCounts));
  } else if (r >= 46 && r < 74) {
    text_.word(is_vowel(next[0]) ? "an" : "a");
  } else {
    text_.word(r < 46   ? "the"
               : r < 80 ? "this"
               : r < 91 ? possessive()
               : r < 96 ? "each"
                        : "another");
  }
}

void Prose::mention_someone() {
  cast_mention(random_.below(static_cast<std::uint32_t>(cast_.size())));
}

void Prose::noun_phrase(std::uint32_t noun, int depth) {
  noun_phrase(noun, random_.percent(35) ? Number::plural : Number::singular, depth);
}

void Prose::noun_phrase(std::uint32_t noun, Number number, int depth) {
  if (depth < 2 && random_.percent(4)) {
    text_.word("the");
    text_.word(words_.adjectives[words_.adjective_of(noun, random_.below(3))].quality);
    text_.word("of");
    depth = 2;
  }
  const Noun& n = words_.nouns[noun];
  const std::string& form = number == Number::plural ? n.plural : n.singular;
  if (random_.percent(38)) {
    const std::uint32_t a =
        random_.percent(60) ? words_.adjective_of(noun, random_.below(3)) : pick_adjective();
    const std::string& adjective = words_.adjectives[a].plain;
    determiner(number, adjective);
    text_.word(adjective);
  } else {
    determiner(number, form);
  }
  if (random_.percent(6)) {
    link(n.singular);
    // MediaWiki lets an ending follow the brackets: [[lanter]]s.
    if (number == Number::plural)
      text_.close(std::string_view(form).starts_with(n.singular)
                      ? std::string_view(form).substr(n.singular.size())
                      : "s");
  } else {
    text_.word(form);
  }
  if (depth < 2 && random_.percent(24)) {
    text_.word("of");
    if (random_.percent(25))
      mention_someone();
    else
      noun_phrase(random_.percent(55) ? words_.complement_of(noun, random_.below(3)) : pick_noun(),
                  depth + 1);
  }
}

Number Prose::subject_phrase(std::uint32_t& habit) {
  const std::uint32_t r = random_.below(100);
  if (r < 30) {
    habit = Lexicon::kNouns + subject_.occupation;
    text_.word(r < 18 ? pronoun() : std::string_view(subject_.brief));
    return Number::singular;
  }
  if (r < 46) {
    const std::uint32_t index = random_.below(static_cast<std::uint32_t>(cast_.size()));
    habit = Lexicon::kNouns + cast_[index].occupation;
    cast_mention(index);
    return Number::singular;
  }
  habit = pick_noun();
  const Number number = random_.percent(35) ? Number::plural : Number::singular;
  noun_phrase(habit, number, 0);
  return number;
}

void Prose::be(Number number) {
  if (tense_ == Tense::past)
    text_.word(number == Number::plural ? "were" : "was");
  else
    text_.word(number == Number::plural ? "are" : "is");
}

void Prose::copula(Number number, std::uint32_t habit) {
  be(number);
  if (random_.percent(55))
    text_.word(words_
                   .adjectives[random_.percent(60) ? words_.adjective_of(habit, random_.below(3))
                                                   : pick_adjective()]
                   .plain);
  else
    noun_phrase(words_.complement_of(habit, 4 + random_.below(3)), number, 1);
}

void Prose::passive(Number number, std::uint32_t habit) {
  be(number);
  text_.word(words_.verbs[pick_verb(habit)].past);
  if (random_.percent(60)) {
    text_.word("by");
    if (random_.percent(40))
      mention_someone();
    else
      noun_phrase(pick_noun(), 1);
  }
}

void Prose::active(Number number, std::uint32_t habit, int depth) {
  const std::uint32_t chosen = pick_verb(habit);
  const Verb& verb = words_.verbs[chosen];
  const bool plural = number == Number::plural;
  if (random_.percent(8)) text_.word(words_.adjectives[pick_adjective()].adverb);
  const std::uint32_t aspect = random_.below(10);
  if (aspect == 0) {
    text_.word(tense_ == Tense::past ? "had" : plural ? "have" : "has");
    text_.word(verb.past);
  } else if (aspect == 1) {
    text_.word(tense_ == Tense::past ? "would" : "may");
    text_.word(verb.base);
  } else {
    text_.word(tense_ == Tense::past ? verb.past : plural ? verb.base : verb.third);
  }
  if (verb.frame == Frame::clausal && depth == 0) {
    text_.word("that");
    clause(depth + 1);
    return;
  }
  if (verb.frame == Frame::intransitive) return;
  if (verb.frame == Frame::prepositional) text_.word(verb.preposition);
  noun_phrase(random_.percent(55) ? words_.object_of(chosen, random_.below(5)) : pick_noun(), 0);
  if (random_.percent(7)) {
    const std::uint32_t aim = pick_verb(chosen);
    text_.word(random_.percent(50) ? "by" : "without");
    text_.word(words_.verbs[aim].gerund);
    noun_phrase(words_.object_of(aim, random_.below(5)), 1);
  }
}

void Prose::verb_phrase(Number number, std::uint32_t habit, int depth) {
  const std::uint32_t r = random_.below(100);
  if (r < 17)
    copula(number, habit);
  else if (r < 29)
    passive(number, habit);
  else
    active(number, habit, depth);
}

void Prose::time_phrase() {
  text_.word("in");
  const std::string year = std::to_string(next_year());
  if (random_.percent(60))
    link(year);
  else
    text_.word(year);
}

void Prose::clause(int depth) {
  std::uint32_t habit = 0;
  const Number number = subject_phrase(habit);
  verb_phrase(number, habit, depth);
  if (tense_ == Tense::past && random_.percent(14)) time_phrase();
  if (depth == 0 && random_.percent(8)) {
    text_.close(",");
    text_.word("which");
    verb_phrase(Number::singular, habit, 1);
  }
}

void Prose::quotation() {
  mention_someone();
  text_.word(tense_ == Tense::past ? "wrote" : "writes");
  text_.close(",");
  text_.open("&quot;");
  text_.capital();
  clause(1);
  text_.close(".&quot;");
}

void Prose::sentence() {
  text_.capital();
  const std::uint32_t r = random_.below(100);
  if (r < 55) {
    clause(0);
  } else if (r < 65) {
    time_phrase();
    text_.close(",");
    clause(0);
  } else if (r < 72) {
    text_.word(pick(random_, kConnectives));
    text_.close(",");
    clause(0);
  } else if (r < 80) {
    text_.word(pick(random_, kSubordinators));
    clause(1);
    text_.close(",");
    clause(1);
  } else if (r < 88) {
    clause(1);
    text_.close(",");
    text_.word(pick(random_, kConjunctions));
    clause(1);
  } else if (r < 92) {
    text_.word("according to");
    mention_someone();
    text_.close(",");
    clause(0);
  } else if (r < 95) {
    quotation();
    return;
  } else {
    clause(1);
    text_.open("(");
    text_.word(random_.percent(50) ? "see" : "as");
    random_.percent(50) ? phrase() : mention_someone();
    text_.close(")");
  }
  text_.close(".");
  if (random_.percent(6)) reference();
}

void Prose::paragraph(int sentences) {
  text_.line("");
  for (int i = 0; i < sentences; ++i) sentence();
  text_.raw() += "\n\n";
}

}  // namespace quietformer::wikipedia
