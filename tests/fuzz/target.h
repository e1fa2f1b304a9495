// Fuzz targets: one function per reader of files. It takes arbitrary bytes, makes a file of them in
// memory, and lets the reader have it. A reader may do one of two things: read the file, or refuse
// it with an InputError whose message is one line. Anything else (another exception, a crash, a
// sanitizer's report, a hang, gigabytes of memory) is a finding, and so is a broken promise that a
// target checks afterwards ("what was read is what was packed").
//
// Two programs run the same functions:
//   test_fuzz     part of the suite, any compiler: replays tests/fuzz/corpus/TARGET and runs some
//                 thousand seeded mutations of it (replay_test.cpp)
//   fuzz_readers  libFuzzer (clang, preset "fuzz"): scripts/fuzz runs it for as long as you like
//
// A format with a checksum is not given raw bytes only: nearly all of them would end at the
// checksum. There the bytes are a recipe, and the target seals, sums or packs what it describes, so
// that the layer above is reached. Each target's file says what its bytes mean.
//
// A finding becomes a file in the corpus together with the repair of the reader.
// make_corpus.py writes the seeds; the other files there came out of runs (merged, minimised).
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "core/check.h"

namespace quietformer::fuzz {

enum class Outcome : std::uint8_t { read, refused };

struct Target {
  std::string_view name;
  Outcome (*run)(std::string_view bytes);
  std::size_t max_bytes;  // longer inputs only cost speed
};

Outcome fuzz_checkpoint(std::string_view bytes);
Outcome fuzz_compressed(std::string_view bytes);
Outcome fuzz_config(std::string_view bytes);
Outcome fuzz_hf_config(std::string_view bytes);
Outcome fuzz_map_file(std::string_view bytes);
Outcome fuzz_safetensors(std::string_view bytes);
Outcome fuzz_sealed_file(std::string_view bytes);
Outcome fuzz_shard_index(std::string_view bytes);
Outcome fuzz_tokenizer(std::string_view bytes);
Outcome fuzz_tokens(std::string_view bytes);

inline constexpr Target kTargets[] = {
    {"checkpoint", fuzz_checkpoint, 128},
    {"compressed", fuzz_compressed, 512},
    {"config", fuzz_config, 512},
    {"hf_config", fuzz_hf_config, 1024},
    {"map_file", fuzz_map_file, 1024},
    {"safetensors", fuzz_safetensors, 768},
    {"sealed_file", fuzz_sealed_file, 1024},
    {"shard_index", fuzz_shard_index, 512},
    {"tokenizer", fuzz_tokenizer, 1536},
    {"tokens", fuzz_tokens, 1536},
};

/// A promise that the reader broke.
struct Finding : std::logic_error {
  using std::logic_error::logic_error;
};

inline void expect(bool kept, const char* promise) {
  if (!kept) throw Finding(promise);
}

/// Runs `body` and lets nothing pass but a return or a well-formed InputError.
template <class Body>
Outcome attempt(Body&& body) {
  try {
    std::forward<Body>(body)();
    return Outcome::read;
  } catch (const InputError& error) {
    const std::string_view message = error.what();
    for (const char c : message)
      expect(static_cast<unsigned char>(c) >= 0x20 && c != 0x7F, "a message is one line of text");
    expect(!message.empty() && message.back() != '\n', "a message says something");
    return Outcome::refused;
  }
}

/// Takes an input apart from the front; zeros and empty strings when nothing is left.
class Recipe {
 public:
  explicit Recipe(std::string_view bytes) : left_(bytes) {}
  bool empty() const { return left_.empty(); }
  unsigned byte() {
    if (left_.empty()) return 0;
    const unsigned char value = static_cast<unsigned char>(left_.front());
    left_.remove_prefix(1);
    return value;
  }
  unsigned below(unsigned bound) { return byte() % bound; }
  std::string text(std::size_t length) {
    const std::string taken(left_.substr(0, length));
    left_.remove_prefix(taken.size());
    return taken;
  }
  std::string_view rest() { return std::exchange(left_, {}); }

 private:
  std::string_view left_;
};

}  // namespace quietformer::fuzz
