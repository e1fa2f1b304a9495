#include "data/tokenizer.h"

#include <fmt/format.h>

#include <filesystem>

#include "core/check.h"
#include "core/log.h"
#include "data/tokenizer/added_tokens.h"
#include "data/tokenizer/decoder.h"
#include "data/tokenizer/model.h"
#include "data/tokenizer/normalizer.h"
#include "data/tokenizer/pre_tokenizer.h"
#include "data/tokenizer/spec.h"
#include "data/tokenizer/utf8.h"
#include "data/tokenizer/vocabulary.h"
#include "data/tokenizer/word_cache.h"

namespace quietformer {
namespace {

namespace fs = std::filesystem;

/// Added tokens, normaliser, pre-tokeniser, model and post-processor, one after the other.
class Pipeline final : public Tokenizer {
 public:
  explicit Pipeline(TokenizerSpec spec) : spec_(std::move(spec)) {
    for (auto& [token, id] : spec_.model.vocab) {
      vocabulary_.add(token, id, spec_.model.where);
      all_.add(std::move(token), id, spec_.model.where);
    }
    add_tokens();
    if (all_.size() == 0) throw InputError(spec_.model.where + ": no tokens");
    if (const std::int32_t hole = all_.first_hole(); hole < all_.size())
      throw InputError(fmt::format("{}: no token has the id {}, and there are {} tokens",
                                   spec_.model.where, hole, all_.size()));
    const bool byte_level = spec_.pre_tokenizer.kind == PreTokenizerSpec::Kind::byte_level;
    if (spec_.model.kind == ModelSpec::Kind::bpe) {
      model_ = make_bpe(spec_.model, vocabulary_, byte_level);
    } else if (byte_level) {
      throw InputError(spec_.model.where + ": WordPiece with ByteLevel is not supported");
    } else {
      model_ = make_wordpiece(spec_.model, vocabulary_);
    }
    keep_bytes_ = byte_level && spec_.normalizer.empty();
    for (const auto* ids : {&spec_.before, &spec_.after})
      for (const std::int32_t id : *ids)
        if (id >= all_.size())
          throw InputError(fmt::format("{}: found the id {}, expected ids below {}",
                                       spec_.around_where, id, all_.size()));
    mark_special();
    // The lists live in vocabulary and table now.
    spec_.model.vocab = {};
    spec_.model.merges = {};
  }

  std::vector<std::int32_t> encode(std::string_view text, SpecialTokens special) const override {
    std::vector<std::int32_t> ids;
    ids.reserve(text.size() / 4 + 8);
    if (special == SpecialTokens::with) ids = spec_.before;
    WordCache cache;
    const std::function<void(std::string_view)> word = [&](std::string_view w) {
      cache.encode(w, *model_, ids);
    };
    for (const Piece& piece : raw_tokens_.split(text)) {
      if (piece.id >= 0)
        ids.push_back(piece.id);
      else
        encode_piece(piece.text, piece.text.data() == text.data(), word, ids);
    }
    if (special == SpecialTokens::with)
      ids.insert(ids.end(), spec_.after.begin(), spec_.after.end());
    return ids;
  }

  std::string decode(std::span<const std::int32_t> ids, SpecialTokens special) const override {
    std::vector<std::string> tokens;
    for (const std::int32_t id : ids) {
      const std::string& text = token(id);
      if (special == SpecialTokens::with || !special_[std::size_t(id)]) tokens.push_back(text);
    }
    if (!spec_.has_decoder)
      for (std::size_t i = 1; i < tokens.size(); ++i) tokens[i].insert(0, " ");
    return decode_tokens(spec_.decoder, std::move(tokens));
  }

  std::int64_t vocab_size() const override { return all_.size(); }
  const std::string& token(std::int32_t id) const override {
    const std::string* const text = all_.token(id);
    QF_EXPECTS(text != nullptr);
    return *text;
  }
  std::optional<std::int32_t> id_of(std::string_view token) const override {
    return all_.find(token);
  }
  const SpecialIds& special() const override { return ids_; }
  const std::string& path() const override { return spec_.path; }

 private:
  void add_tokens() {
    for (const AddedToken& token : spec_.added) {
      const std::string where =
          fmt::format("{}: added token '{}'", spec_.path, one_line(token.content, 60));
      if (token.content.empty()) throw InputError(where + ": is empty");
      const auto known = all_.find(token.content);
      if (known && *known != token.id)
        throw InputError(fmt::format("{}: has the id {}, and {} in {}", where, token.id, *known,
                                     spec_.model.where));
      if (!known) all_.add(token.content, token.id, where);
      AddedTokens& group = token.normalized ? normalized_tokens_ : raw_tokens_;
      group.add(token,
                token.normalized ? normalize(spec_.normalizer, token.content) : token.content);
    }
  }

  void mark_special() {
    special_.resize(std::size_t(all_.size()));
    for (const AddedToken& token : spec_.added)
      if (token.special) special_[std::size_t(token.id)] = true;
    std::int32_t* const places[] = {&ids_.bos, &ids_.eos, &ids_.unknown, &ids_.padding,
                                    &ids_.cls, &ids_.sep, &ids_.mask};
    for (std::size_t i = 0; i < spec_.special.size(); ++i)
      if (const auto id = all_.find(spec_.special[i])) *places[i] = *id;
  }

  void encode_piece(std::string_view text, bool first,
                    const std::function<void(std::string_view)>& word,
                    std::vector<std::int32_t>& ids) const {
    std::string normalized;
    if (!keep_bytes_) {
      normalized = normalize(spec_.normalizer, text);
      text = normalized;
    }
    for (const Piece& piece : normalized_tokens_.split(text)) {
      if (piece.id >= 0)
        ids.push_back(piece.id);
      else
        split_words(spec_.pre_tokenizer, piece.text, first && piece.text.data() == text.data(),
                    word);
    }
  }

  TokenizerSpec spec_;
  Vocabulary vocabulary_;  // the model's
  Vocabulary all_;         // with the added tokens
  std::vector<bool> special_;
  AddedTokens raw_tokens_, normalized_tokens_;
  std::unique_ptr<Model> model_;
  SpecialIds ids_;
  bool keep_bytes_ = false;  // not UTF-8 reaches the model as it is
};

}  // namespace

bool tokenizers_built() {
  return true;
}

std::unique_ptr<const Tokenizer> open_tokenizer(const std::string& path) {
  if (!fs::exists(path)) throw InputError(path + ": no such file or directory");
  const std::string json = fs::is_directory(path) ? path + "/tokenizer.json" : path;
  TokenizerSpec spec = fs::exists(json) ? read_tokenizer_json(json) : read_vocab_files(path);
  guess_special_names(spec);
  return std::make_unique<Pipeline>(std::move(spec));
}

}  // namespace quietformer
