// The tensors of a Hugging Face directory: model.safetensors, or the shards that
// model.safetensors.index.json lists. Files are mapped, nothing is copied.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "train/safetensors.h"

namespace quietformer {

/// A tensor and the file that holds it.
struct FileTensor {
  const SafetensorsReader* file = nullptr;
  const SafetensorsEntry* entry = nullptr;
};

/// Of a shard index, {"metadata": {...}, "weight_map": {tensor: file}}, file by tensor.
/// InputError naming `path` for another form, a tensor given twice, and a file's name that is
/// anything but a plain name ending in .safetensors: a shard lies in the index's own directory.
std::map<std::string, std::string> parse_shard_index(std::string_view json,
                                                     const std::string& path);

/// InputError, saying how to convert it, when a file is a PyTorch pickle by its name or first
/// bytes, or a directory holds one.
void refuse_pickles(const std::string& path);

class TensorFiles {
 public:
  /// A directory, or one .safetensors file. InputError when a shard is missing, or holds other
  /// tensors than the index says, or is a link out of the directory (the links of the Hugging Face
  /// cache, from snapshots/REVISION to blobs/, are followed), and for a PyTorch pickle.
  explicit TensorFiles(const std::string& path);

  const std::string& path() const { return path_; }  // of the file, or of the index
  /// In the order of the files and of their bytes.
  const std::vector<FileTensor>& tensors() const { return tensors_; }
  const FileTensor* find(std::string_view name) const;  // null when absent
  std::uint64_t bytes() const;                          // of all values

 private:
  void open_shards(const std::string& directory);

  std::string path_;
  std::vector<std::unique_ptr<SafetensorsReader>> files_;
  std::vector<FileTensor> tensors_;
  std::map<std::string, std::size_t, std::less<>> index_;
};

}  // namespace quietformer
