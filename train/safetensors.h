// The safetensors format: an 8-byte length, a JSON header {"name": {"dtype", "shape",
// "data_offsets"}, "__metadata__": {...}}, then the tensors' bytes, little-endian and row-major.
//
// Reading maps the file and trusts nothing in it: the header's length and JSON, duplicate names,
// types, shapes (overflow), offsets (range, overlap, holes, size) are checked before any tensor is
// touched. Every violation is one InputError naming file and tensor.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/file.h"
#include "core/tensor.h"
#include "train/checkpoint.h"

namespace quietformer {

struct SafetensorsEntry {
  std::string name;
  std::string dtype;                 // as in the file: F64, F32, F16, BF16, I64, ..., BOOL
  std::vector<std::int64_t> shape;   // of any rank
  std::uint64_t begin = 0, end = 0;  // in the data part
  std::string_view bytes;            // the values in the mapped file; maybe not aligned
};

class SafetensorsReader {
 public:
  explicit SafetensorsReader(const std::string& path);

  const std::string& path() const { return file_.path(); }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  /// In the order of their bytes.
  const std::vector<SafetensorsEntry>& entries() const { return entries_; }
  const SafetensorsEntry* find(std::string_view name) const;  // null when absent
  const SafetensorsEntry& require(std::string_view name) const;

  /// Shape as ours. InputError when the rank is above kMaxRank.
  Shape shape(const SafetensorsEntry& entry) const;
  /// The element type as ours, BOOL as u8. InputError for types the project has no use for.
  DType dtype(const SafetensorsEntry& entry) const;

  /// Copies the values into contiguous `out` of the same shape: F64, F32, F16 and BF16 into f32 or
  /// f64 with conversion, every type into its own.
  void read(const SafetensorsEntry& entry, const Tensor& out) const;
  /// The entry's bytes are not needed soon (MappedFile::forget).
  void forget(const SafetensorsEntry& entry) const { file_.forget(entry.bytes); }

 private:
  void check_layout(std::string_view data);

  MappedFile file_;
  std::map<std::string, std::string> metadata_;
  std::vector<SafetensorsEntry> entries_;
};

/// Writes atomically (core/file.h). Tensors are contiguous and on the host; wider element types
/// come first, so that everything is aligned, otherwise in the order given. InputError for repeated
/// names and for text that is not UTF-8; RunError when the file cannot be written.
void write_safetensors(const std::string& path, std::span<const NamedTensor> tensors,
                       const std::map<std::string, std::string>& metadata);
/// The same for tensors that are made one by one while the file is written, each in memory that the
/// next one reuses.
void write_safetensors(const std::string& path, std::span<const DeferredTensor> tensors,
                       const std::map<std::string, std::string>& metadata);

}  // namespace quietformer
