// What lies above the seal: CheckpointReader and StatisticsHistory::load on files that are whole,
// sealed and HDF5, but hold anything that HDF5 can say (checkpoint_recipe.cpp). HDF5's own parsing
// of damaged files is not the subject: the seal keeps those from it.
#include "train/checkpoint.h"

#include "analysis/history.h"
#include "core/buffer.h"
#include "core/sealed_file.h"
#include "tests/fuzz/checkpoint_recipe.h"
#include "tests/fuzz/memory_file.h"
#include "tests/fuzz/target.h"

namespace quietformer::fuzz {
namespace {

constexpr std::int64_t kMostElementsRead = 1 << 16;

void read_checkpoint(const std::string& path) {
  const CheckpointReader reader(path);
  attempt([&] { reader.integer("step"); });
  attempt([&] { reader.text("config"); });
  for (const TensorInfo& info : reader.tensors()) {
    expect(reader.find(info.name) != nullptr, "a tensor is found under its name");
    std::int64_t count = 1;
    bool small = true;
    for (int i = 0; i < info.shape.rank; ++i)
      small = small && !__builtin_mul_overflow(count, info.shape[i], &count);
    if (!small || count > kMostElementsRead) continue;  // its memory is the caller's decision
    const OwnedTensor out(info.dtype, info.shape);
    attempt([&] { reader.read(info.name, out); });
  }
}

void read_history(const std::string& path) {
  StatisticsHistory history = StatisticsHistory::load(path);
  const std::size_t rows = history.steps().size();
  const std::vector<double> mean = history.series("activations/s/mean");
  expect(mean.empty() || rows == 0 || mean.size() % rows == 0, "a series has whole rows");
  if (rows > 0) history.cut_back(history.steps()[rows / 2]);
}

}  // namespace

Outcome fuzz_checkpoint(std::string_view bytes) {
  static MemoryFile file{"file.h5"};
  Recipe recipe(bytes);
  const bool statistics = recipe.byte() % 2 == 1;
  std::string image = hdf5_image(recipe, kSealBytes);
  seal(image, {statistics ? "quietformer statistics" : "quietformer checkpoint", 1});
  file.write(image);
  return attempt([&] {
    const std::string path = file.path("file.h5");
    statistics ? read_history(path) : read_checkpoint(path);
  });
}

}  // namespace quietformer::fuzz
