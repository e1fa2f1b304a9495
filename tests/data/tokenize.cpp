// tokenize TOKENIZER [--plain]: for every "SIZE\n" and so many bytes of text on standard input one
// line of ids, and the text decoded from them in the same form. tokenizers_test.py compares both
// with those of `tokenizers`.
#include <cstdio>
#include <exception>
#include <iostream>
#include <string>

#include "data/tokenizer.h"

int main(int argc, char** argv) {
  using namespace quietformer;
  if (argc < 2) return 2;
  if (!tokenizers_built()) {
    std::puts("built without ICU");
    return 77;
  }
  try {
    const auto tokenizer = open_tokenizer(argv[1]);
    const auto special = argc > 2 ? SpecialTokens::without : SpecialTokens::with;
    std::string size;
    while (std::getline(std::cin, size)) {
      std::string text(std::stoul(size), '\0');
      std::cin.read(text.data(), static_cast<std::streamsize>(text.size()));
      const auto ids = tokenizer->encode(text, special);
      std::string line;
      for (const std::int32_t id : ids) line += std::to_string(id) + ' ';
      const std::string decoded = tokenizer->decode(ids);
      std::cout << line << '\n' << decoded.size() << '\n' << decoded;
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
