// The digest header. KIND COUNT (OFFSET OFFSET BITS)^COUNT LENGTH LENGTH PAYLOAD: a payload is
// sealed, then bytes of the result are changed and its length is cut. It must be accepted exactly
// when seal() would leave it as it is, whatever happened to it.
#include "core/sealed_file.h"

#include <algorithm>

#include "tests/fuzz/target.h"

namespace quietformer::fuzz {
namespace {

constexpr SealKind kKinds[] = {{"quietformer checkpoint", 1},
                               {"quietformer statistics", 1},
                               {"quietformer checkpoint", 2},
                               {"q", 0}};

bool is_as_sealed(std::string_view file, const SealKind& kind) {
  if (file.size() < kSealBytes) return false;
  std::string again(file);
  seal(again, kind);
  return again == file;
}

}  // namespace

Outcome fuzz_sealed_file(std::string_view bytes) {
  Recipe recipe(bytes);
  const unsigned kinds = recipe.byte();
  const SealKind& sealed_as = kKinds[kinds % 4];
  const SealKind& expected = kKinds[kinds < 128 ? kinds % 4 : kinds / 4 % 4];
  const std::string patch = recipe.text(3 * recipe.below(8));
  const std::size_t cut = recipe.byte() * 256 + recipe.byte();
  std::string file(kSealBytes, '\0');
  file += recipe.rest();
  const bool raw = kinds / 16 % 4 == 3;  // the bytes themselves, without any seal
  if (raw)
    file.erase(0, kSealBytes);
  else
    seal(file, sealed_as);
  for (std::size_t i = 0; i + 2 < patch.size() && !file.empty(); i += 3) {
    const std::size_t at =
        static_cast<unsigned char>(patch[i]) * 256u + static_cast<unsigned char>(patch[i + 1]);
    file[at % file.size()] = static_cast<char>(file[at % file.size()] ^ patch[i + 2]);
  }
  file.resize(file.size() - std::min(cut, file.size()));
  const Outcome outcome = attempt([&] { verify_seal(file, expected, "file"); });
  expect((outcome == Outcome::read) == is_as_sealed(file, expected),
         "a file is accepted exactly when it is as seal() left it");
  return outcome;
}

}  // namespace quietformer::fuzz
