// The index of a sharded model. The bytes are the file.
#include "core/check.h"
#include "tests/fuzz/target.h"
#include "train/hf/tensor_files.h"

namespace quietformer::fuzz {

Outcome fuzz_shard_index(std::string_view bytes) {
  return attempt([&] {
    const auto files = parse_shard_index(bytes, "model.safetensors.index.json");
    expect(!files.empty(), "an index without tensors is refused");
    for (const auto& [tensor, file] : files) {
      expect(file.ends_with(".safetensors") && file.front() != '.',
             "a shard is a safetensors file");
      expect(file.find('/') == std::string::npos && file.find('\0') == std::string::npos,
             "a shard lies in the index's directory");
    }
  });
}

}  // namespace quietformer::fuzz
