#include <filesystem>

#include "data/tokenizer.h"

namespace quietformer {

bool has_tokenizer(const std::string& directory) {
  for (const char* name : {"tokenizer.json", "vocab.json", "vocab.txt"})
    if (std::filesystem::exists(std::filesystem::path(directory) / name)) return true;
  return false;
}

}  // namespace quietformer
