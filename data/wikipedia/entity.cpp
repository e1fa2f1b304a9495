#include "data/wikipedia/entity.h"

#include <algorithm>

namespace quietformer::wikipedia {
namespace {

void make_person(Entity& e, const Lexicon& words, Random& random) {
  e.gender = random.below(3) == 0 ? 1 : 0;
  e.begin = 1700 + static_cast<int>(random.below(280));
  e.end = std::min(2006, e.begin + random.between(34, 91));
  e.brief = words.families[random.below(Lexicon::kFamilies)];
  e.full = words.given[e.gender][words.given_ranks.draw(random)];
  if (random.percent(15)) {
    e.full += ' ';
    e.full += static_cast<char>('A' + random.below(20));
    e.full += '.';
  }
  e.full += " " + e.brief;
}

void make_place(Entity& e, const Lexicon& words, Random& random) {
  constexpr const char* kPrefixes[] = {"New ", "North ", "Upper ", "Saint ", "East ", "Lake "};
  e.begin = 900 + static_cast<int>(random.below(1000));
  e.end = 2006;
  if (random.percent(25)) e.brief = pick(random, kPrefixes);
  e.brief += words.places[random.below(Lexicon::kPlaces)];
  e.full = e.brief;
  if (random.percent(35)) e.full += ", " + words.nations[e.nation].name;
}

void make_work(Entity& e, const Lexicon& words, Random& random) {
  e.begin = 1800 + static_cast<int>(random.below(205));
  e.end = 2006;
  const Noun& noun =
      words.nouns[words.topic_word(e.topic, words.topic_ranks.draw(random), Lexicon::kNouns)];
  const std::uint32_t form = random.below(3);
  if (form == 0) {
    e.full = "The " + capitalised(words.adjectives[words.adjective_ranks.draw(random)].plain) +
             " " + capitalised(noun.singular);
  } else if (form == 1) {
    e.full =
        "The " + capitalised(noun.plural) + " of " + words.places[random.below(Lexicon::kPlaces)];
  } else {
    e.full = capitalised(words.verbs[words.verb_ranks.draw(random)].gerund) + " the " +
             capitalised(noun.singular);
  }
  e.brief = e.full;
}

void make_term(Entity& e, const Lexicon& words, Random& random) {
  e.begin = 1750 + static_cast<int>(random.below(250));
  e.end = 2006;
  const std::uint32_t noun =
      words.topic_word(e.topic, words.topic_ranks.draw(random), Lexicon::kNouns);
  e.brief = words.nouns[noun].singular;
  if (random.percent(75)) {
    const std::uint32_t adjective = random.percent(40) ? words.adjective_of(noun, random.below(3))
                                                       : random.below(Lexicon::kAdjectives);
    e.brief = words.adjectives[adjective].plain + " " + e.brief;
  }
  e.full = capitalised(e.brief);
}

}  // namespace

Entity make_entity(const Lexicon& words, std::uint64_t seed, std::uint32_t id) {
  Random random(mix(seed + 0x656e74697479, id));
  Entity e;
  e.id = id;
  e.topic = random.below(Lexicon::kTopics);
  // A topic belongs to few nations and trades: knowing one tells about the other.
  e.nation =
      (e.topic * 7 + random.below(random.percent(60) ? 3 : Lexicon::kNations)) % Lexicon::kNations;
  e.occupation = (e.topic * 11 + random.below(random.percent(70) ? 4 : Lexicon::kOccupations)) %
                 Lexicon::kOccupations;
  const std::uint32_t kind = random.below(100);
  if (kind < 34) {
    e.kind = EntityKind::person;
    make_person(e, words, random);
  } else if (kind < 60) {
    e.kind = EntityKind::place;
    make_place(e, words, random);
  } else if (kind < 74) {
    e.kind = EntityKind::work;
    make_work(e, words, random);
  } else {
    e.kind = EntityKind::term;
    make_term(e, words, random);
  }
  return e;
}

std::string alternative_title(const Entity& entity, Random& random) {
  const std::string& full = entity.full;
  if (entity.kind == EntityKind::person && random.percent(50))
    return entity.brief + ", " + full.substr(0, full.size() - entity.brief.size() - 1);
  if (full.find(' ') == std::string::npos) {
    constexpr const char* kKinds[] = {"person", "place", "book", "term"};
    return full + " (" + kKinds[static_cast<int>(entity.kind)] + ")";
  }
  std::string joined;  // CamelCase, as the first wikis wrote links
  for (std::size_t i = 0; i < full.size(); ++i) {
    if (full[i] == ' ') continue;
    const bool initial = i > 0 && full[i - 1] == ' ';
    joined += initial ? capitalised({full[i]}) : std::string(1, full[i]);
  }
  return joined;
}

}  // namespace quietformer::wikipedia
