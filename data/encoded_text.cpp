#include "data/encoded_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "core/check.h"
#include "core/log.h"
#include "data/input_file.h"
#include "data/tokenizer.h"
#include "data/unpack.h"

namespace quietformer {
namespace {

class EncodedText final : public TokenSource {
 public:
  EncodedText(std::string name, std::vector<std::int32_t> ids, std::int64_t vocab,
              std::int64_t text_bytes)
      : TokenSource(std::move(name), std::ssize(ids), vocab, text_bytes), ids_(std::move(ids)) {}

  void copy(std::int64_t begin, std::int64_t count, std::int32_t* out) const override {
    QF_EXPECTS(begin >= 0 && count >= 0 && begin <= size() - count);
    std::copy_n(ids_.begin() + begin, count, out);
  }

 private:
  std::vector<std::int32_t> ids_;
};

}  // namespace

std::unique_ptr<TokenSource> open_encoded_text(const SourceRequest& request) {
  const Tokenizer& tokenizer = *request.tokenizer;
  InputFile file(request.path, request.what);
  const std::vector<std::uint8_t> text = read_unpacked(file);
  std::vector<std::int32_t> ids =
      tokenizer.encode({reinterpret_cast<const char*>(text.data()), text.size()});
  if (ids.empty()) file.fail(fmt::format("gives no tokens with {}", tokenizer.path()));
  std::int64_t vocab = tokenizer.vocab_size();
  if (request.vocab > 0 && request.vocab < vocab) {
    vocab = request.vocab;
    const std::int32_t largest = *std::max_element(ids.begin(), ids.end());
    if (largest >= vocab)
      file.fail(
          fmt::format("token '{}' of {} has the id {}, expected ids below the vocabulary of {}",
                      one_line(tokenizer.token(largest), 60), tokenizer.path(), largest, vocab));
  }
  return std::make_unique<EncodedText>(request.path, std::move(ids), vocab, std::ssize(text));
}

}  // namespace quietformer
