// A run's configuration. TEXT [NUL OVERRIDE]...: the file and the command line's key=value.
#include <vector>

#include "tests/fuzz/memory_file.h"
#include "tests/fuzz/target.h"
#include "train/run_config.h"

namespace quietformer::fuzz {
namespace {

// What a checkpoint carries must read back as the configuration that it was.
void expect_round_trip(const RunConfig& config) {
  const std::string resolved = to_yaml(config);
  try {
    const RunConfig again = parse_run_config(resolved, "resolved");
    expect(to_yaml(again) == resolved, "a resolved configuration stays as it is");
    expect(differences(config, again).empty(), "a resolved configuration reads back");
  } catch (const InputError& error) {
    throw Finding(std::string("a resolved configuration is accepted: ") + error.what());
  }
}

}  // namespace

Outcome fuzz_config(std::string_view bytes) {
  static MemoryFile file{"config.yaml"};
  const std::size_t end = bytes.find('\0');
  file.write(bytes.substr(0, end));
  std::vector<std::string> overrides;
  for (std::size_t at = end; at != std::string_view::npos;) {
    const std::size_t next = bytes.find('\0', at + 1);
    overrides.emplace_back(bytes.substr(at + 1, next - at - 1));
    at = next;
  }
  return attempt([&] { expect_round_trip(load_run_config(file.path("config.yaml"), overrides)); });
}

}  // namespace quietformer::fuzz
