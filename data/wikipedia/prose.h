// Sentences of the invented language within one article.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/wikipedia/entity.h"
#include "data/wikipedia/lexicon.h"
#include "data/wikipedia/random.h"
#include "data/wikipedia/text.h"

namespace quietformer::wikipedia {

enum class Tense : std::uint8_t { past, present };
enum class Number : std::uint8_t { singular, plural };

std::string calendar_day(Random& random);  // "March 4"

/// Writes the running text of one article and remembers what has been said: the tense, the year the
/// story has reached, who has been linked, which words came up. That memory is what a model can use
/// over long distances. Quotes, brackets, links and references it opens it also closes.
class Prose {
 public:
  Prose(const Lexicon& words, std::uint64_t seed, const Entity& subject, std::uint64_t state,
        std::string& out);

  void paragraph(int sentences);
  void sentence();
  /// "the adjective noun of ..." about the article's topic.
  void phrase() { noun_phrase(pick_noun(), Number::singular, 1); }
  void cast_mention(std::size_t index);
  void link(std::string_view target);           // [[target]]
  void reference();                             // &lt;ref&gt;...&lt;/ref&gt;
  void book();                                  // Stinson, Darel. ''Title'', 1902.
  void web_link();                              // [http://www.host.org/path Title]
  void indefinite_link(std::string_view noun);  // a(n) [[noun]]
  std::string title();                          // "Brisk lanter"

  Text& text() { return text_; }
  std::string& out() { return text_.raw(); }
  Random& random() { return random_; }
  const Entity& subject() const { return subject_; }
  const Lexicon& words() const { return words_; }
  const std::vector<Entity>& cast() const { return cast_; }
  std::string_view pronoun() const;     // "he", "she", "it"
  std::string_view possessive() const;  // "his", "her", "its"
  void set_year(int year) { year_ = year; }
  int next_year();  // never decreases, never beyond the subject's end
  std::uint32_t pick_noun();
  std::uint32_t pick_adjective();

 private:
  void choose_cast();
  void clause(int depth);
  void time_phrase();
  Number subject_phrase(std::uint32_t& habit);
  void mention_someone();
  void noun_phrase(std::uint32_t noun, int depth);
  void noun_phrase(std::uint32_t noun, Number number, int depth);
  void determiner(Number number, std::string_view next);
  void verb_phrase(Number number, std::uint32_t habit, int depth);
  void active(Number number, std::uint32_t habit, int depth);
  void passive(Number number, std::uint32_t habit);
  void copula(Number number, std::uint32_t habit);
  void be(Number number);
  void quotation();
  std::uint32_t pick_verb(std::uint32_t habit);

  const Lexicon& words_;
  std::uint64_t seed_;
  const Entity& subject_;
  Random random_;
  Text text_;
  Tense tense_;
  int year_;
  std::vector<Entity> cast_;  // the others of this article
  std::vector<bool> linked_;  // of the cast
  std::array<std::uint32_t, 12> recent_nouns_{};
  std::uint32_t recent_count_ = 0;
};

}  // namespace quietformer::wikipedia
