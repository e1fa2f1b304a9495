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
    // What is written back reads as the same.
    const HfArchitecture& architecture = hf_architecture_of(config);
    HfConfig written;
    resolve(model);
    architecture.write_config(model, attention, written);
    written.set("model_type", std::string(architecture.name));
    ModelConfig model_again;
    AttentionConfig attention_again;
    architecture.read_config(written, model_again, attention_again);
    expect(model_again == model, "a written config.json reads as the same model");
  });
}

}  // namespace quietformer::fuzz
