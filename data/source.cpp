#include "data/source.h"

#include <fmt/format.h>

#include <algorithm>
#include <new>
#include <utility>
#include <vector>

#include "core/check.h"
#include "data/encoded_text.h"
#include "data/generator.h"
#include "data/input_file.h"
#include "data/token_file.h"
#include "data/unpack.h"

namespace quietformer {
namespace {

constexpr std::string_view kGeneratorPrefix = "generator:";
constexpr std::string_view kWikipedia = "generator:wikipedia";
constexpr std::uint64_t kGeneratorSeed = 1;

class ByteSource final : public TokenSource {
 public:
  ByteSource(std::string name, std::vector<std::uint8_t> bytes, std::int64_t vocab)
      : TokenSource(std::move(name), std::ssize(bytes), vocab, std::ssize(bytes)),
        bytes_(std::move(bytes)) {}

  void copy(std::int64_t begin, std::int64_t count, std::int32_t* out) const override {
    QF_EXPECTS(begin >= 0 && count >= 0 && begin <= size() - count);
    const std::uint8_t* in = bytes_.data() + begin;
    for (std::int64_t i = 0; i < count; ++i) out[i] = in[i];
  }

 private:
  std::vector<std::uint8_t> bytes_;
};

std::vector<std::uint8_t> generate(const SourceRequest& request) {
  if (request.path != kWikipedia)
    throw InputError(fmt::format("{}: unknown generator '{}', known: {}", request.what,
                                 request.path, kWikipedia));
  if (request.kind != SourceKind::bytes)
    throw InputError(fmt::format("{}: {} makes bytes, not tokens", request.what, request.path));
  QF_EXPECTS(request.generated_bytes > 0);
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(request.generated_bytes));
  generate_wikipedia(kGeneratorSeed, request.generated_bytes, bytes.data());
  return bytes;
}

std::unique_ptr<TokenSource> open_bytes(const SourceRequest& request, bool generated) {
  std::vector<std::uint8_t> bytes;
  if (generated) {
    bytes = generate(request);
  } else {
    InputFile file(request.path, request.what);
    bytes = read_unpacked(file);
  }
  std::int64_t vocab = 256;
  if (request.vocab > 0 && request.vocab < vocab) {
    vocab = request.vocab;
    const auto bad = std::find_if(bytes.begin(), bytes.end(), [&](int b) { return b >= vocab; });
    if (bad != bytes.end())
      throw InputError(fmt::format("{}: {}: byte {} is {}, expected ids below the vocabulary of {}",
                                   request.what, request.path, bad - bytes.begin(), *bad, vocab));
  }
  return std::make_unique<ByteSource>(request.path, std::move(bytes), vocab);
}

}  // namespace

SourceKind source_kind(std::string_view name, std::string_view what) {
  if (name == "bytes") return SourceKind::bytes;
  if (name == "tokens") return SourceKind::tokens;
  throw InputError(fmt::format("{}: unknown source '{}', known: bytes, tokens", what, name));
}

std::unique_ptr<TokenSource> open_source(const SourceRequest& request) {
  QF_EXPECTS(request.vocab >= 0);
  const bool generated = request.path.starts_with(kGeneratorPrefix);
  try {
    if (generated || request.kind == SourceKind::bytes) return open_bytes(request, generated);
    return request.tokenizer != nullptr ? open_encoded_text(request) : open_token_file(request);
  } catch (const std::bad_alloc&) {
    throw RunError(fmt::format("{}: {}: does not fit into memory", request.what, request.path));
  } catch (const std::length_error&) {
    throw RunError(fmt::format("{}: {}: does not fit into memory", request.what, request.path));
  }
}

}  // namespace quietformer
