// A small safetensors reader for fixtures. The project's own reader lies above the code that most
// fixtures test, and tests of one reader should not rest on itself.
#pragma once

#include <cstdint>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/buffer.h"

namespace quietformer::test {

class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::string& path) : path_(path) {
    std::ifstream file(path, std::ios::binary);
    std::uint64_t length = 0;
    file.read(reinterpret_cast<char*>(&length), sizeof(length));
    std::string header(length, '\0');
    file.read(header.data(), std::streamsize(length));
    if (!file) throw std::runtime_error(path + ": cannot read the header");
    bytes_.assign(std::istreambuf_iterator<char>(file), {});
    const nlohmann::json tensors = nlohmann::json::parse(header);
    for (const auto& [name, entry] : tensors.items())
      if (name != "__metadata__") entries_[name] = entry;
  }

  bool has(const std::string& name) const { return entries_.count(name) != 0; }

  std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const auto& [name, entry] : entries_) all.push_back(name);
    return all;
  }

  /// A copy in the type of the file (F32, F64, U8, I32, I64).
  OwnedTensor read(const std::string& name) const {
    const auto found = entries_.find(name);
    if (found == entries_.end()) throw std::runtime_error(path_ + ": no tensor " + name);
    Shape shape;
    for (const auto& size : found->second.at("shape")) shape.size[shape.rank++] = size;
    const std::int64_t begin = found->second.at("data_offsets")[0];
    const std::int64_t end = found->second.at("data_offsets")[1];
    OwnedTensor tensor(type_of(found->second.at("dtype")), shape);
    if (tensor.view().bytes() != end - begin || end > std::int64_t(bytes_.size()))
      throw std::runtime_error(path_ + ": wrong offsets of " + name);
    std::copy(bytes_.begin() + begin, bytes_.begin() + end, static_cast<char*>(tensor.view().data));
    return tensor;
  }

 private:
  static DType type_of(const std::string& name) {
    static const std::map<std::string, DType> types{{"F32", DType::f32},
                                                    {"F64", DType::f64},
                                                    {"U8", DType::u8},
                                                    {"I32", DType::i32},
                                                    {"I64", DType::i64}};
    return types.at(name);
  }

  std::string path_;
  std::vector<char> bytes_;
  std::map<std::string, nlohmann::json> entries_;
};

}  // namespace quietformer::test
