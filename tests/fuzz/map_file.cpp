// A tensor-name map, with a config.json for it to refer to. The bytes are the YAML file.
#include "train/hf/map_file.h"

#include "core/log.h"
#include "tests/fuzz/memory_file.h"
#include "tests/fuzz/target.h"

namespace quietformer::fuzz {

Outcome fuzz_map_file(std::string_view bytes) {
  static MemoryFile file{"map.yaml"};
  const ScopedLogSink quiet([](LogLevel, const std::string&) {});
  file.write(bytes);
  const HfConfig config(R"({"depth": 2, "sizes": {"heads": 4, "list": [1]}, "word": "a"})",
                        "config.json");
  return attempt([&] {
    const MapFile map = load_map_file(file.path("map.yaml"), config);
    validate(map.model, map.attention);
    ModelConfig model = map.model;
    resolve(model);
    // Whatever the rules say, a plan stays inside both tensors or is refused.
    const Shape shape{(model.heads + 2 * model.kv_heads) * model.head_dim(), 3};
    if (shape[0] > 4096) return;
    for (const TensorCopy& copy :
         plan_parameter(map.tensors, "blocks.0.attention.qkv.weight", shape, model)) {
      expect(copy.our_row >= 0 && copy.rows >= 0 && copy.our_row + copy.rows <= shape[0],
             "a run lies in our parameter");
      expect(copy.their_row >= 0 && copy.their_row + copy.rows <= copy.their_rows,
             "a run lies in their tensor");
      for (const std::int64_t row : copy.order)
        expect(row >= 0 && row < copy.rows, "an order stays in its run");
    }
  });
}

}  // namespace quietformer::fuzz
