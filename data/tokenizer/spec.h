// What the files of a tokenizer say, before anything is built of it.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace quietformer {

/// A token that is looked for in the text before the model sees it.
struct AddedToken {
  std::string content;
  std::int32_t id = 0;
  bool single_word = false;             // not inside a word
  bool lstrip = false, rstrip = false;  // takes the white space beside it
  bool normalized = true;               // looked for in the normalised text
  bool special = false;
};

struct NormalizerStep {
  enum class Kind : std::uint8_t { bert, prepend, replace } kind = Kind::bert;
  bool clean = true, spaces_around_cjk = true, strip_accents = true, lowercase = true;  // bert
  std::string pattern, content;  // prepend: content; replace: both
};

/// When Metaspace puts its sign before a text: not at all, before all, before the first piece only.
enum class PrependScheme : std::uint8_t { never, always, first };

struct PreTokenizerSpec {
  enum class Kind : std::uint8_t {
    none,
    byte_level,
    bert,
    whitespace,
    whitespace_split,
    metaspace
  };
  Kind kind = Kind::none;
  bool add_prefix_space = false, use_regex = true;  // byte_level
  std::string replacement;                          // metaspace
  PrependScheme prepend = PrependScheme::always;    // metaspace
  bool split = true;                                // metaspace
};

struct ModelSpec {
  enum class Kind : std::uint8_t { bpe, wordpiece } kind = Kind::bpe;
  std::string where;         // of the vocabulary: file and key
  std::string merges_where;  // of the merges
  std::vector<std::pair<std::string, std::int64_t>> vocab;
  std::vector<std::pair<std::string, std::string>> merges;  // bpe, the first is the strongest
  std::optional<std::string> unknown;
  std::string prefix, suffix;  // of subwords that go on, of the last one of a word (bpe)
  bool fuse_unknown = false, byte_fallback = false, ignore_merges = false;  // bpe
  std::int64_t longest_word = 100;                                          // wordpiece, characters
};

struct DecoderStep {
  enum class Kind : std::uint8_t {
    byte_level,
    wordpiece,
    metaspace,
    replace,
    byte_fallback,
    fuse,
    strip
  } kind = Kind::byte_level;
  std::string pattern, content;      // wordpiece: the prefix; metaspace: its sign; replace: both;
                                     // strip: what is stripped
  bool cleanup = true;               // wordpiece
  bool drop_first = true;            // metaspace: the sign of the first token
  std::int64_t start = 0, stop = 0;  // strip: at most so many
};

struct TokenizerSpec {
  std::string path;
  ModelSpec model;
  std::vector<AddedToken> added;
  std::vector<NormalizerStep> normalizer;
  PreTokenizerSpec pre_tokenizer;
  std::vector<std::int32_t> before, after;  // ids that the post-processor puts around a text
  std::string around_where;                 // file and key of the post-processor
  bool has_decoder = false;                 // without one tokens are joined by spaces
  std::vector<DecoderStep> decoder;
  // bos, eos, unknown, padding, cls, sep, mask; empty where the files do not say.
  std::array<std::string, 7> special;
};

class Json;

/// An object of tokens and ids into model.vocab. InputError naming file and key.
void read_vocab(const Json& json, ModelSpec& model);

/// One entry of a list of added tokens but its id. InputError naming file and key.
AddedToken read_added_token(const Json& json, std::int32_t id);

/// tokenizer.json. InputError naming file and key.
TokenizerSpec read_tokenizer_json(const std::string& path);

/// vocab.json with merges.txt, or vocab.txt, as transformers' classes of GPT-2, RoBERTa and BERT
/// read them with tokenizer_config.json. InputError naming file and key.
TokenizerSpec read_vocab_files(const std::string& directory);

/// Fills spec.special from tokenizer_config.json and special_tokens_map.json of a directory, where
/// they are. InputError naming file and key.
void read_special_names(const std::string& directory, TokenizerSpec& spec);

/// What the files did not say, by the usual names of special tokens among the added ones.
void guess_special_names(TokenizerSpec& spec);

}  // namespace quietformer
