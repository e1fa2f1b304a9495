// Token files (nanoGPT, llm.c). VOCAB VOCAB FILE, or with a first byte above 127 VOCAB VOCAB MAGIC
// VERSION COUNT (one byte each, added to what llm.c writes) and the tokens.
#include <algorithm>
#include <cstring>
#include <vector>

#include "data/source.h"
#include "tests/fuzz/memory_file.h"
#include "tests/fuzz/target.h"

namespace quietformer::fuzz {
namespace {

constexpr std::size_t kHeaderBytes = 1024;

std::string with_header(Recipe& recipe) {
  std::int32_t header[256] = {20240520, 1, 0};
  header[0] += static_cast<std::int32_t>(recipe.byte());
  header[1] += static_cast<std::int32_t>(recipe.byte());
  const auto extra = static_cast<std::int32_t>(static_cast<signed char>(recipe.byte()));
  const std::string_view tokens = recipe.rest();
  header[2] = static_cast<std::int32_t>(tokens.size() / 2) + extra;
  std::string file(sizeof(header), '\0');
  std::memcpy(file.data(), header, sizeof(header));
  return file.append(tokens);
}

// Read in uneven pieces, every id must be the file's and below the vocabulary.
void expect_ids(const TokenSource& source, std::string_view file) {
  const std::size_t tokens = static_cast<std::size_t>(source.size());
  expect(file.size() == 2 * tokens || file.size() == 2 * tokens + kHeaderBytes,
         "the tokens are those after the header");
  const char* first = file.data() + (file.size() - 2 * tokens);
  std::vector<std::int32_t> ids(37);
  for (std::int64_t begin = 0; begin < source.size();) {
    const std::int64_t count = std::min<std::int64_t>(std::ssize(ids), source.size() - begin);
    source.copy(begin, count, ids.data());
    for (std::int64_t i = 0; i < count; ++i) {
      std::uint16_t id;
      std::memcpy(&id, first + 2 * (begin + i), sizeof(id));
      expect(ids[static_cast<std::size_t>(i)] == id && id < source.vocab(), "an id is the file's");
    }
    begin += count;
  }
}

}  // namespace

Outcome fuzz_tokens(std::string_view bytes) {
  static MemoryFile file{"tokens.bin"};
  Recipe recipe(bytes);
  SourceRequest request;
  request.kind = SourceKind::tokens;
  request.path = file.path("tokens.bin");
  const unsigned high = recipe.byte();
  request.vocab = high % 128 * 1024 + recipe.byte();
  const std::string contents = high >= 128 ? with_header(recipe) : std::string(recipe.rest());
  file.write(contents);
  return attempt([&] { expect_ids(*open_source(request), contents); });
}

}  // namespace quietformer::fuzz
