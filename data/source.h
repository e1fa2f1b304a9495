// Where training text comes from: a read-only sequence of token ids.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace quietformer {

class Tokenizer;

/// `bytes`: every byte of the text is a token. `tokens`: the file holds 16-bit token ids, or text
/// that a tokenizer encodes.
enum class SourceKind : std::uint8_t { bytes, tokens };

/// "bytes" or "tokens"; throws InputError beginning with `what` otherwise.
SourceKind source_kind(std::string_view name, std::string_view what = "data.source");

/// What to open.
struct SourceRequest {
  SourceKind kind = SourceKind::bytes;
  /// A file, or "generator:wikipedia" for the bundled text (data/generator.h; bytes only).
  std::string path;
  /// The config key or option that begins every error message.
  std::string what = "data.path";
  /// Ids must be below this, the model's vocabulary; 0 accepts all that the kind can hold.
  std::int64_t vocab = 0;
  /// For tokens: `path` is text, which this encodes while it is opened. Null: a file of ids.
  const Tokenizer* tokenizer = nullptr;
  /// Bytes to generate when `path` names the generator, normally the sum of the split.
  std::int64_t generated_bytes = 4'000'000;
};

/// A sequence of token ids that never changes. Safe to read from several threads at once.
class TokenSource {
 public:
  TokenSource(std::string name, std::int64_t size, std::int64_t vocab, std::int64_t text_bytes = 0)
      : name_(std::move(name)), size_(size), vocab_(vocab), text_bytes_(text_bytes) {}
  TokenSource(const TokenSource&) = delete;
  TokenSource& operator=(const TokenSource&) = delete;
  virtual ~TokenSource() = default;

  const std::string& name() const { return name_; }  // the path, for messages
  std::int64_t size() const { return size_; }        // tokens, at least 1
  /// Every id that copy() writes is in [0, vocab()): 256 for bytes, 65536 for files of ids, the
  /// tokenizer's for text, or what the request asked for where that is less.
  std::int64_t vocab() const { return vocab_; }
  /// Length of the text that all tokens together are; 0 when unknown, for files of ids.
  std::int64_t text_bytes() const { return text_bytes_; }

  /// Writes tokens [begin, begin + count) to out; the range must lie within [0, size()). Allocates
  /// nothing. Token files are too long to check when opened: an id out of range throws InputError
  /// naming its offset here.
  virtual void copy(std::int64_t begin, std::int64_t count, std::int32_t* out) const = 0;

 private:
  std::string name_;
  std::int64_t size_;
  std::int64_t vocab_;
  std::int64_t text_bytes_;
};

/// Opens a source; InputError in one line beginning with request.what when that cannot be.
/// bytes:  a raw file, gzip, or a zip archive of one file (told apart by content), held in memory.
/// tokens: nanoGPT's headerless little-endian uint16, or llm.c's (256 int32 header: magic 20240520,
///         version 1, count; then uint16), mapped into memory: do not shorten the file meanwhile.
///         With a tokenizer a text as for bytes, whose ids, special tokens around them included,
///         are held in memory.
std::unique_ptr<TokenSource> open_source(const SourceRequest& request);

}  // namespace quietformer
