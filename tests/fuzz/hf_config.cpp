// config.json of a Hugging Face GPT-2. The bytes are the file.
#include "core/log.h"
#include "tests/fuzz/memory_file.h"
#include "tests/fuzz/target.h"
#include "train/hf_gpt2.h"

namespace quietformer::fuzz {

Outcome fuzz_hf_config(std::string_view bytes) {
  static MemoryFile file{"config.json"};
  const ScopedLogSink quiet([](LogLevel, const std::string&) {});
  file.write(bytes);
  return attempt([&] {
    ModelConfig model;
    AttentionConfig attention;
    read_hf_gpt2_config(file.folder(), model, attention);
    validate(model, attention);
  });
}

}  // namespace quietformer::fuzz
