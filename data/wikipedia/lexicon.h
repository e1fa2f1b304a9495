// The invented language: words with inflections, frequencies and habits, and names.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/wikipedia/random.h"

namespace quietformer::wikipedia {

struct Noun {
  std::string singular, plural;
};

/// How a verb goes on: subcategorisation frames.
enum class Frame : std::uint8_t { transitive, prepositional, clausal, intransitive };

struct Verb {
  std::string base, third, past, gerund;  // "carve", "carves", "carved", "carving"
  Frame frame = Frame::transitive;
  std::string_view preposition;  // of the prepositional frame
};

struct Adjective {
  std::string plain, adverb, quality;  // "brisk", "briskly", "briskness"
};

struct Nation {
  std::string name, adjective;  // "Morvia", "Morvian"
};

/// All words of one seed. Lower numbers are more frequent and tend to be shorter. Which word goes
/// with which (an adjective's nouns, a verb's objects) is a function of the two numbers, so habits
/// exist for every word without being stored.
class Lexicon {
 public:
  static constexpr std::uint32_t kNouns = 6000, kVerbs = 1600, kAdjectives = 2400;
  static constexpr std::uint32_t kGiven = 300, kFamilies = 9000,
                                 kPlaces = 9000;  // given: per gender
  static constexpr std::uint32_t kNations = 40, kOccupations = 60, kUsers = 1500, kTopics = 160;

  explicit Lexicon(std::uint64_t seed);

  std::vector<Noun> nouns;
  std::vector<Verb> verbs;
  std::vector<Adjective> adjectives;
  std::array<std::vector<std::string>, 2> given;  // men's, women's
  std::vector<std::string> families, places, users;
  std::vector<Nation> nations;
  std::vector<Noun> occupations;

  ZipfTable noun_ranks{kNouns, 40}, verb_ranks{kVerbs, 15}, adjective_ranks{kAdjectives, 25};
  ZipfTable topic_ranks{400, 8};  // within the vocabulary of one topic
  ZipfTable given_ranks{kGiven, 10}, user_ranks{kUsers, 8};
  ZipfTable entity_ranks{20000, 30};  // how often the subject of an early page is mentioned

  /// The `habit`-th favourite companion of a word: a frequent word of the other kind, fixed.
  std::uint32_t adjective_of(std::uint32_t noun, std::uint32_t habit) const {
    return adjective_ranks.draw(mix(seed_ + 1, noun * 8 + habit));
  }
  std::uint32_t verb_of(std::uint32_t noun, std::uint32_t habit) const {
    return verb_ranks.draw(mix(seed_ + 2, noun * 8 + habit));
  }
  std::uint32_t object_of(std::uint32_t verb, std::uint32_t habit) const {
    return noun_ranks.draw(mix(seed_ + 3, verb * 16 + habit));
  }
  std::uint32_t complement_of(std::uint32_t noun, std::uint32_t habit) const {  // "noun of ..."
    return noun_ranks.draw(mix(seed_ + 4, noun * 8 + habit));
  }
  /// The word of some rank in a topic's own vocabulary, anywhere in the lexicon.
  std::uint32_t topic_word(std::uint32_t topic, std::uint32_t rank, std::uint32_t words) const {
    return static_cast<std::uint32_t>((mix(seed_ + 5, topic * 1024 + rank) >> 32) * words >> 32);
  }

 private:
  std::uint64_t seed_;
};

inline bool is_vowel(char c) {
  return std::string_view("aeiou").find(c) != std::string_view::npos;
}

/// With its first letter, if it is one of a-z, in upper case; word must not be empty.
std::string capitalised(std::string word);

}  // namespace quietformer::wikipedia
