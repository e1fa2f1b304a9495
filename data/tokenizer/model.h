// The part of a tokenizer that looks for tokens inside a word.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "data/tokenizer/spec.h"
#include "data/tokenizer/vocabulary.h"

namespace quietformer {

class Model {
 public:
  Model() = default;
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;
  virtual ~Model() = default;

  /// Appends the ids of one word, which is not empty.
  virtual void encode(std::string_view word, std::vector<std::int32_t>& ids) const = 0;
};

/// Byte pair encoding (Sennrich et al. 2016): a word begins as its characters, or bytes when
/// `byte_level`, and neighbours are merged, the strongest pair first and the leftmost of equals. A
/// word of n characters takes n log n steps. InputError when spec contradicts itself, naming the
/// merge. The vocabulary must outlive the model.
std::unique_ptr<Model> make_bpe(const ModelSpec& spec, const Vocabulary& vocabulary,
                                bool byte_level);

/// WordPiece (Wu et al. 2016, as BERT uses it): the longest token that a word begins with, then the
/// longest that goes on, and so on; one unknown token for the whole word where that ends in
/// nothing. Throws and outlives as above.
std::unique_ptr<Model> make_wordpiece(const ModelSpec& spec, const Vocabulary& vocabulary);

}  // namespace quietformer
