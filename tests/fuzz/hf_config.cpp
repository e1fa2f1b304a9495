// config.json of a Hugging Face model of any architecture. The bytes are the file.
#include "core/log.h"
#include "tests/fuzz/memory_file.h"
#include "tests/fuzz/target.h"
#include "train/hf/architecture.h"

namespace quietformer::fuzz {

Outcome fuzz_hf_config(std::string_view bytes) {
  static MemoryFile file{"config.json"};
  const ScopedLogSink quiet([](LogLevel, const std::string&) {});
  file.write(bytes);
  return attempt([&] {
    ModelConfig model;
    AttentionConfig attention;
    const HfConfig config = HfConfig::load(file.path("config.json"));
    read_hf_config(hf_architecture_of(config), config, model, attention);
    validate(model, attention);
  });
}

}  // namespace quietformer::fuzz
