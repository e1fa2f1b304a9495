// libFuzzer's entry points. "--target=NAME" chooses the reader; libFuzzer itself leaves options
// with two dashes alone and hands them on when it starts further processes.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "tests/fuzz/target.h"

namespace {

const quietformer::fuzz::Target* chosen = nullptr;

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* count, char*** arguments) {
  constexpr std::string_view kOption = "--target=";
  for (int i = 1; i < *count; ++i) {
    const std::string_view argument = (*arguments)[i];
    if (!argument.starts_with(kOption)) continue;
    for (const quietformer::fuzz::Target& target : quietformer::fuzz::kTargets)
      if (target.name == argument.substr(kOption.size())) chosen = &target;
  }
  if (chosen == nullptr) {
    std::fputs("fuzz_readers: expected --target=NAME, one of", stderr);
    for (const quietformer::fuzz::Target& target : quietformer::fuzz::kTargets)
      std::fprintf(stderr, " %s", target.name.data());
    std::fputs("\n", stderr);
    std::exit(2);
  }
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  chosen->run({reinterpret_cast<const char*>(data), size});
  return 0;
}
