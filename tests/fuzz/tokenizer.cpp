// Files of tokenizers, and texts through them. KIND FILES TEXT, with a NUL after each file: by KIND
// % 3 tokenizer.json, or vocab.txt and tokenizer_config.json, or vocab.json, merges.txt and
// tokenizer_config.json.
#include "data/tokenizer.h"

#include <algorithm>
#include <filesystem>
#include <string>
#include <utility>

#include "data/tokenizer/spec.h"
#include "tests/fuzz/memory_file.h"
#include "tests/fuzz/target.h"

namespace quietformer::fuzz {
namespace {

/// The files of one kind in one folder.
struct VocabularyFiles {
  explicit VocabularyFiles(const char* name) : vocabulary{name} {
    for (const auto& [file, other] :
         {std::pair{&config, "tokenizer_config.json"}, std::pair{&merges, "merges.txt"}})
      std::filesystem::create_symlink(file->path(other), vocabulary.path(other));
  }
  MemoryFile vocabulary;
  MemoryFile config{"tokenizer_config.json"};
  MemoryFile merges{"merges.txt"};
};

std::string_view field(std::string_view& rest) {
  const std::size_t end = std::min(rest.find('\0'), rest.size());
  const std::string_view found = rest.substr(0, end);
  rest.remove_prefix(std::min(end + 1, rest.size()));
  return found;
}

void expect_sound(const Tokenizer& tokenizer, std::string_view text) {
  const auto plain = tokenizer.encode(text, SpecialTokens::without);
  const auto whole = tokenizer.encode(text);
  expect(whole.size() >= plain.size(), "special tokens are added");
  for (const std::int32_t id : whole) {
    expect(id >= 0 && id < tokenizer.vocab_size(), "ids are the vocabulary's");
    expect(tokenizer.id_of(tokenizer.token(id)) == id, "ids and tokens agree");
  }
  expect(tokenizer.encode(text) == whole, "the same text has the same ids");
  tokenizer.decode(whole);
  tokenizer.decode(whole, SpecialTokens::with);
}

void read(const std::string& path, std::string_view text) {
  if (tokenizers_built())
    expect_sound(*open_tokenizer(path), text);
  else if (std::filesystem::is_directory(path))
    read_vocab_files(path);
  else
    read_tokenizer_json(path);
}

}  // namespace

Outcome fuzz_tokenizer(std::string_view bytes) {
  static MemoryFile json{"tokenizer.json"};
  static VocabularyFiles bert("vocab.txt"), bpe("vocab.json");
  Recipe recipe(bytes);
  const unsigned kind = recipe.below(3);
  std::string_view rest = recipe.rest();
  if (kind == 0) {
    json.write(field(rest));
    return attempt([&] { read(json.path("tokenizer.json"), rest); });
  }
  VocabularyFiles& files = kind == 1 ? bert : bpe;
  files.vocabulary.write(field(rest));
  if (kind == 2) files.merges.write(field(rest));
  files.config.write(field(rest));
  return attempt([&] { read(files.vocabulary.folder(), rest); });
}

}  // namespace quietformer::fuzz
