#include "data/wikipedia/lexicon.h"

#include <array>
#include <span>
#include <unordered_set>

namespace quietformer::wikipedia {
namespace {

struct Piece {
  const char* text;
  std::uint32_t weight;
};

// Weighted so that letters come out about as often as in English.
constexpr Piece kOnsets[] = {
    {"", 9},   {"b", 9},  {"c", 12}, {"d", 10}, {"f", 8},   {"g", 6},  {"h", 10}, {"j", 1},
    {"k", 3},  {"l", 10}, {"m", 11}, {"n", 8},  {"p", 11},  {"r", 11}, {"s", 13}, {"t", 14},
    {"v", 5},  {"w", 6},  {"y", 1},  {"z", 1},  {"br", 2},  {"ch", 3}, {"cl", 2}, {"cr", 2},
    {"dr", 2}, {"fl", 1}, {"fr", 2}, {"gr", 3}, {"pl", 2},  {"pr", 4}, {"qu", 2}, {"sc", 2},
    {"sh", 3}, {"sl", 1}, {"sp", 2}, {"st", 5}, {"str", 2}, {"th", 6}, {"tr", 4}, {"wh", 1}};
constexpr Piece kNuclei[] = {{"a", 24}, {"e", 34}, {"i", 22}, {"o", 21}, {"u", 9},  {"ai", 2},
                             {"ea", 3}, {"ee", 2}, {"ie", 1}, {"io", 2}, {"oo", 1}, {"ou", 3}};
constexpr Piece kCodas[] = {{"", 26},  {"n", 14}, {"r", 13}, {"l", 9},  {"s", 8},  {"t", 8},
                            {"d", 5},  {"m", 5},  {"c", 3},  {"p", 2},  {"g", 2},  {"nd", 3},
                            {"nt", 4}, {"rd", 1}, {"rm", 1}, {"st", 3}, {"ck", 1}, {"ll", 2},
                            {"ss", 1}, {"x", 1},  {"ng", 2}, {"rt", 1}, {"th", 1}, {"sk", 1}};
constexpr const char* kNounEndings[] = {"tion", "ment", "er",   "ity", "ism",
                                        "ure",  "age",  "ance", "or"};
constexpr const char* kVerbEndings[] = {"ate", "ise", "ify"};
constexpr const char* kAdjectiveEndings[] = {"al", "ic", "ous", "ive", "ed", "ary", "ible", "ful"};
constexpr const char* kPlaceEndings[] = {"ton", "ville", "burg",  "ford",
                                         "ham", "stadt", "mouth", "grad"};
constexpr const char* kFamilyEndings[] = {"son", "er", "ov", "man", "ez", "sen", "elli", "sky"};
constexpr const char* kPrepositions[] = {"of",   "to",      "in",      "with",  "on",
                                         "for",  "from",    "at",      "by",    "into",
                                         "over", "through", "against", "under", "towards"};

class Coiner {
 public:
  explicit Coiner(std::uint64_t state) : random_(state) {}
  Random& random() { return random_; }

  /// A stem not coined before that can take an ending; shorter for small ranks.
  std::string stem(std::uint32_t rank, std::span<const char* const> endings = {},
                   std::uint32_t ending_percent = 0) {
    for (std::uint32_t attempt = 0;; ++attempt) {
      // A word that cannot be new at its length becomes longer.
      const std::uint32_t length = (rank < 60    ? 1
                                    : rank < 900 ? 2
                                                 : 2 + random_.below(2)) +
                                   attempt / 8;
      std::string word;
      for (std::uint32_t i = 0; i < length; ++i) {
        const bool open = i + 1 < length && random_.percent(60);
        syllable(word, open ? Syllable::open : Syllable::closed);
      }
      if (word.size() < 3) continue;
      if (rank >= 60 && random_.percent(ending_percent)) {
        while (word.size() > 2 && is_vowel(word.back())) word.pop_back();
        word += endings[random_.below(static_cast<std::uint32_t>(endings.size()))];
      }
      if (known_.insert(word).second) return word;
    }
  }

 private:
  enum class Syllable { open, closed };  // an open one ends in a vowel

  void syllable(std::string& word, Syllable kind) {
    // Two vowels in a row read badly and never happen at a joint.
    const char* onset = piece(kOnsets);
    while (*onset == '\0' && !word.empty() && is_vowel(word.back())) onset = piece(kOnsets);
    word += onset;
    word += piece(kNuclei);
    if (kind == Syllable::closed) word += piece(kCodas);
  }

  template <std::size_t N>
  const char* piece(const Piece (&pieces)[N]) {
    std::uint32_t total = 0;
    for (const Piece& p : pieces) total += p.weight;
    std::uint32_t at = random_.below(total);
    for (const Piece& p : pieces) {
      if (at < p.weight) return p.text;
      at -= p.weight;
    }
    return "";
  }

  Random random_;
  std::unordered_set<std::string> known_;  // asked for membership only: its order does not matter
};

// One name in twelve has an accent: text is UTF-8, so models meet bytes above 127 inside words.
std::string accented(Random& random, std::string name) {
  constexpr std::array<std::array<std::string_view, 2>, 6> kAccents = {
      {{"a", "á"}, {"e", "é"}, {"o", "ö"}, {"u", "ü"}, {"i", "í"}, {"n", "ñ"}}};
  if (random.below(12) != 0) return name;
  const auto& [plain, accent] = kAccents[random.below(kAccents.size())];
  const std::size_t at = name.find(plain, 1);
  return at == std::string::npos ? name : name.replace(at, 1, accent);
}

bool ends_with_any(std::string_view word, std::initializer_list<std::string_view> ends) {
  for (std::string_view end : ends)
    if (word.ends_with(end)) return true;
  return false;
}

std::string with_s(const std::string& word) {
  if (ends_with_any(word, {"s", "x", "z", "ch", "sh"})) return word + "es";
  if (word.back() == 'y' && !is_vowel(word[word.size() - 2]))
    return word.substr(0, word.size() - 1) + "ies";
  return word + "s";
}

std::string with_ending(const std::string& word, const char* ending) {
  if (word.back() == 'e') return word.substr(0, word.size() - 1) + ending;
  if (word.back() == 'y' && ending[0] == 'e') return word.substr(0, word.size() - 1) + "i" + ending;
  return word + ending;
}

std::string adverb_of(const std::string& word) {
  if (ends_with_any(word, {"ic"})) return word + "ally";
  if (ends_with_any(word, {"le"})) return word.substr(0, word.size() - 1) + "y";
  if (ends_with_any(word, {"y"})) return word.substr(0, word.size() - 1) + "ily";
  return word + "ly";
}

Noun noun(std::string singular) {
  std::string plural = with_s(singular);
  return {std::move(singular), std::move(plural)};
}

Verb verb(Coiner& coin, std::uint32_t rank) {
  Verb v;
  v.base = coin.stem(rank, kVerbEndings, 30);
  v.third = with_s(v.base);
  v.past = with_ending(v.base, "ed");
  v.gerund = with_ending(v.base, "ing");
  constexpr Frame kFrames[] = {Frame::transitive,    Frame::transitive,    Frame::transitive,
                               Frame::transitive,    Frame::prepositional, Frame::prepositional,
                               Frame::prepositional, Frame::intransitive,  Frame::clausal};
  v.frame = kFrames[coin.random().below(std::size(kFrames))];
  v.preposition = pick(coin.random(), kPrepositions);
  return v;
}

Adjective adjective(Coiner& coin, std::uint32_t rank) {
  const std::string word = coin.stem(rank, kAdjectiveEndings, 65);
  return {word, adverb_of(word), word + "ness"};
}

Nation nation(Coiner& coin) {
  std::string root = coin.stem(1000);
  while (root.size() > 2 && is_vowel(root.back())) root.pop_back();
  root = capitalised(root);
  switch (coin.random().below(3)) {
    case 0:
      return {root + "ia", root + "ian"};
    case 1:
      return {root + "land", root + "ish"};
    default:
      return {root + "any", root + "ese"};
  }
}

std::string place(Coiner& coin) {
  return accented(coin.random(), capitalised(coin.stem(500, kPlaceEndings, 55)));
}

// User names in the styles of 2005: Word, WordWord, word12, Given Family.
std::string user(Coiner& coin, const Lexicon& words) {
  Random& random = coin.random();
  const std::string base = capitalised(coin.stem(random.below(1000)));
  switch (random.below(4)) {
    case 0:
      return base + std::to_string(random.between(1, 99));
    case 1:
      return base + capitalised(words.adjectives[random.below(400)].plain);
    case 2:
      return words.given[0][random.below(Lexicon::kGiven)] + " " + base;
    default:
      return base;
  }
}

}  // namespace

std::string capitalised(std::string word) {
  if (word[0] >= 'a' && word[0] <= 'z') word[0] = static_cast<char>(word[0] - 'a' + 'A');
  return word;
}

Lexicon::Lexicon(std::uint64_t seed) : seed_(seed) {
  Coiner coin(mix(seed, 0));
  for (std::uint32_t i = 0; i < kNouns; ++i) nouns.push_back(noun(coin.stem(i, kNounEndings, 45)));
  for (std::uint32_t i = 0; i < kVerbs; ++i) verbs.push_back(verb(coin, i));
  for (std::uint32_t i = 0; i < kAdjectives; ++i) adjectives.push_back(adjective(coin, i));
  for (std::uint32_t i = 0; i < kGiven; ++i) {
    given[0].push_back(capitalised(coin.stem(i)));
    given[1].push_back(capitalised(coin.stem(i) + "a"));
  }
  for (std::uint32_t i = 0; i < kFamilies; ++i)
    families.push_back(accented(coin.random(), capitalised(coin.stem(500, kFamilyEndings, 40))));
  for (std::uint32_t i = 0; i < kPlaces; ++i) places.push_back(place(coin));
  for (std::uint32_t i = 0; i < kNations; ++i) nations.push_back(nation(coin));
  constexpr const char* kCrafts[] = {"er", "ist", "or", "ian"};
  for (std::uint32_t i = 0; i < kOccupations; ++i)
    occupations.push_back(noun(coin.stem(400, kCrafts, 100)));
  for (std::uint32_t i = 0; i < kUsers; ++i) users.push_back(user(coin, *this));
}

}  // namespace quietformer::wikipedia
