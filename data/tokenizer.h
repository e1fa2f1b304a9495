// Text to token ids and back, as the tokenizer that belongs to a pretrained checkpoint does it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace quietformer {

/// Encoding `with` them adds what the file's post-processor adds ([CLS] and [SEP], <s> and </s>,
/// nothing for GPT-2). Decoding `without` them leaves out every token marked as special.
enum class SpecialTokens : std::uint8_t { without, with };

/// Ids of tokens with a part to play; -1 where the tokenizer has none.
struct SpecialIds {
  std::int32_t bos = -1, eos = -1, unknown = -1, padding = -1, cls = -1, sep = -1, mask = -1;
};

/// Same ids as Hugging Face's `tokenizers` for the same file and text; truncation and padding,
/// which a file may ask for, are left to the caller. Safe to use from several threads at once.
class Tokenizer {
 public:
  Tokenizer() = default;
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;
  virtual ~Tokenizer() = default;

  /// Any bytes. What is not UTF-8 (`tokenizers` takes UTF-8 only): byte-level BPE keeps every such
  /// byte, so that decoding gives it back, and the others see U+FFFD for every maximal prefix of a
  /// sequence (Unicode 15, 3.9). Time grows like n log n with the text, whatever is in it.
  virtual std::vector<std::int32_t> encode(std::string_view text,
                                           SpecialTokens special = SpecialTokens::with) const = 0;

  /// The text of ids, each in [0, vocab_size()). Bytes come out as they are, where `tokenizers`
  /// puts U+FFFD for what is not UTF-8: the text of a beginning of `ids` is a beginning of the
  /// text.
  virtual std::string decode(std::span<const std::int32_t> ids,
                             SpecialTokens special = SpecialTokens::without) const = 0;

  /// Ids are 0 to vocab_size() - 1, added tokens included.
  virtual std::int64_t vocab_size() const = 0;
  virtual const std::string& token(std::int32_t id) const = 0;
  virtual std::optional<std::int32_t> id_of(std::string_view token) const = 0;
  virtual const SpecialIds& special() const = 0;
  /// The file, or the first of the files, for messages.
  virtual const std::string& path() const = 0;
};

/// Whether this build can tokenize: it needs ICU (docs/tokenizers.md).
bool tokenizers_built();

/// Whether a directory holds the files of a tokenizer that open_tokenizer() looks for.
bool has_tokenizer(const std::string& directory);

/// `path`: a tokenizer.json, or a directory with tokenizer.json, or vocab.json and merges.txt
/// (GPT-2, RoBERTa), or vocab.txt (BERT); beside vocabulary files tokenizer_config.json is read.
/// InputError in one line, beginning with file and key, for anything missing, malformed or not
/// supported; also in a build without ICU.
std::unique_ptr<const Tokenizer> open_tokenizer(const std::string& path);

}  // namespace quietformer
