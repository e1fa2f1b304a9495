// What articles are about: people, places, works and terms, with facts that hold in every article.
#pragma once

#include <cstdint>
#include <string>

#include "data/wikipedia/lexicon.h"

namespace quietformer::wikipedia {

enum class EntityKind : std::uint8_t { person, place, work, term };

/// Page p is about entity p. All fields are functions of (seed, id).
struct Entity {
  std::uint32_t id = 0;
  EntityKind kind = EntityKind::term;
  std::uint32_t topic = 0;       // < Lexicon::kTopics
  std::uint32_t nation = 0;      // where it belongs; < Lexicon::kNations
  std::uint32_t occupation = 0;  // a person's; < Lexicon::kOccupations
  std::uint32_t gender = 0;      // index of Lexicon::given
  int begin = 0;                 // year of birth, foundation, publication or first use
  int end = 0;                   // year of death, or 2006 for what still exists
  std::string full;              // "Darel Stinson", "The Brisk Lanter"
  std::string brief;             // in running text after the first mention: "Stinson"

  bool lasts() const { return end >= 2006; }
};

/// "Stinson, Darel" or "DarelStinson": what a redirect to the entity's page is called.
std::string alternative_title(const Entity& entity, Random& random);

Entity make_entity(const Lexicon& words, std::uint64_t seed, std::uint32_t id);

}  // namespace quietformer::wikipedia
