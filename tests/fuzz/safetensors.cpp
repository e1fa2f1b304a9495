// Safetensors. First byte even: the rest is the file. Odd: the rest is HEADER NUL DATA and the file
// begins with the right length, so that edits of the header reach its parser and the layout.
#include "train/safetensors.h"

#include <algorithm>
#include <cstring>

#include "core/buffer.h"
#include "tests/fuzz/memory_file.h"
#include "tests/fuzz/target.h"

namespace quietformer::fuzz {
namespace {

std::string with_length(std::string_view header, std::string_view data) {
  const std::uint64_t length = header.size();
  std::string file(sizeof(length), '\0');
  std::memcpy(file.data(), &length, sizeof(length));
  return file.append(header).append(data);
}

void read_everything(const SafetensorsReader& file, std::size_t bytes) {
  std::size_t held = 0;
  for (const SafetensorsEntry& entry : file.entries()) {
    held += entry.bytes.size();
    expect(file.find(entry.name) != nullptr, "a tensor is found under its name");
    // A shape that is refused says nothing about the next tensor.
    attempt([&] {
      const Shape shape = file.shape(entry);
      const DType own = file.dtype(entry);
      file.read(entry, OwnedTensor(own, shape));
      file.read(entry, OwnedTensor(DType::f32, shape));
      file.read(entry, OwnedTensor(DType::f64, shape));
    });
  }
  expect(held <= bytes, "tensors do not overlap");
}

}  // namespace

Outcome fuzz_safetensors(std::string_view bytes) {
  static MemoryFile file{"model.safetensors"};
  Recipe recipe(bytes);
  const bool add_length = recipe.byte() % 2 == 1;
  std::string contents(recipe.rest());
  if (add_length) {
    const std::size_t end = std::min(contents.find('\0'), contents.size());
    const std::string_view view = contents;
    contents = with_length(view.substr(0, end), view.substr(std::min(end + 1, view.size())));
  }
  file.write(contents);
  return attempt(
      [&] { read_everything(SafetensorsReader(file.path("model.safetensors")), contents.size()); });
}

}  // namespace quietformer::fuzz
