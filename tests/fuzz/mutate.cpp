#include "tests/fuzz/mutate.h"

#include <string_view>

namespace quietformer::fuzz {
namespace {

using namespace std::string_view_literals;

// Bytes that text formats give a meaning, and the ends of the ranges of binary ones.
constexpr std::string_view kTelling = "{}[]\",:0123456789.-eE\\nt \n&*#'~\x00\x01\x7f\x80\xff"sv;

void edit(std::string& bytes, const std::string& other, Dice& dice) {
  if (bytes.empty()) {
    bytes = other;
    return;
  }
  const std::size_t at = dice.below(bytes.size());
  const char telling = kTelling[dice.below(kTelling.size())];
  switch (dice.below(8)) {
    case 0:
      bytes[at] = static_cast<char>(bytes[at] ^ (1 << dice.below(8)));
      break;
    case 1:
      bytes[at] = telling;
      break;
    case 2:
      bytes[at] = static_cast<char>(dice.below(256));
      break;
    case 3:
      bytes.erase(at, 1 + dice.below(20));
      break;
    case 4:
      bytes.insert(at, bytes.substr(at, dice.below(60)));
      break;
    case 5:
      bytes.insert(at, 1, telling);
      break;
    case 6:
      bytes.replace(at, std::string::npos, other, at < other.size() ? at : 0);
      break;
    default:
      if (dice.below(6) == 0) bytes.resize(at);
  }
}

}  // namespace

std::string mutant(const std::vector<std::string>& corpus, Dice& dice) {
  std::string bytes = corpus[dice.below(corpus.size())];
  const std::string& other = corpus[dice.below(corpus.size())];
  for (std::size_t edits = 1 + dice.below(4); edits > 0; --edits) edit(bytes, other, dice);
  return bytes;
}

}  // namespace quietformer::fuzz
