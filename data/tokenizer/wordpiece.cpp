#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "core/check.h"
#include "core/log.h"
#include "data/tokenizer/model.h"
#include "data/tokenizer/utf8.h"

namespace quietformer {
namespace {

class WordPiece final : public Model {
 public:
  WordPiece(const ModelSpec& spec, const Vocabulary& vocabulary)
      : vocabulary_(vocabulary), prefix_(spec.prefix), longest_word_(spec.longest_word) {
    const std::string unknown = spec.unknown.value_or("[UNK]");
    const auto id = vocabulary.find(unknown);
    if (!id)
      throw InputError(fmt::format("{}: the unknown token '{}' is not in the vocabulary",
                                   spec.where, one_line(unknown, 60)));
    unknown_ = *id;
  }

  void encode(std::string_view word, std::vector<std::int32_t>& ids) const override {
    const std::size_t before = ids.size();
    if (characters_of(word) > longest_word_ || !match(word, ids)) {
      ids.resize(before);
      ids.push_back(unknown_);
    }
  }

 private:
  static std::int64_t characters_of(std::string_view word) {
    return std::count_if(word.begin(), word.end(), [](char c) { return (c & 0xC0) != 0x80; });
  }

  bool match(std::string_view word, std::vector<std::int32_t>& ids) const {
    std::string rest;
    for (std::size_t at = 0; at < word.size();) {
      const std::size_t lead = at == 0 ? 0 : prefix_.size();
      rest.assign(prefix_, 0, lead).append(word.substr(at));
      std::size_t length = std::min(rest.size(), vocabulary_.longest());
      std::optional<std::int32_t> id;
      for (; length > lead; --length) {
        const bool boundary = length == rest.size() || (rest[length] & 0xC0) != 0x80;
        if (boundary) id = vocabulary_.find(std::string_view(rest).substr(0, length));
        if (id) break;
      }
      if (!id) return false;
      ids.push_back(*id);
      at += length - lead;
    }
    return true;
  }

  const Vocabulary& vocabulary_;
  std::string prefix_;
  std::int64_t longest_word_;
  std::int32_t unknown_ = 0;
};

}  // namespace

std::unique_ptr<Model> make_wordpiece(const ModelSpec& spec, const Vocabulary& vocabulary) {
  return std::make_unique<WordPiece>(spec, vocabulary);
}

}  // namespace quietformer
