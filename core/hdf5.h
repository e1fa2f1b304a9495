// HDF5 files, built and read in memory: HDF5 itself never opens, writes or locks a file.
//
// Writing: an Hdf5Writer builds an image, which write_file_atomically (core/file.h) puts on disk.
// Reading: an Hdf5Reader works on a mapped file or an image without copying it. HDF5 trusts what it
// parses, so files that may be damaged are verified first (core/sealed_file.h).
//
// Paths are absolute and '/'-separated ("/parameters/head.weight"). f64, f32, i64, i32, u16 and u8
// are stored little-endian as such; bf16 and f16 as 16-bit words with the attribute dtype = "bf16"
// or "f16". Text is UTF-8 without NUL. HDF5 is not thread-safe: all calls into it share one lock.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/buffer.h"
#include "core/tensor.h"

namespace quietformer {

using Hdf5Attribute = std::variant<std::string, std::int64_t, double, std::vector<std::string>,
                                   std::vector<std::int64_t>, std::vector<double>>;

/// The bytes of a complete HDF5 file.
class Hdf5Image {
 public:
  Hdf5Image(char* malloced, std::size_t size) : data_(malloced), size_(size) {}
  std::span<char> bytes() { return {data_.get(), size_}; }
  std::string_view view() const { return {data_.get(), size_}; }
  std::size_t size() const { return size_; }

 private:
  struct Free {
    void operator()(char* data) const { std::free(data); }
  };
  std::unique_ptr<char, Free> data_;
  std::size_t size_;
};

/// Builds a file in memory. Equal calls give equal bytes: nothing depends on time or addresses.
/// Failures (memory) are RunErrors; repeated paths and bad names are the caller's bugs.
class Hdf5Writer {
 public:
  /// `name` is for messages. The image begins with `user_block` zero bytes (0, or 512 times a power
  /// of two) that HDF5 ignores. `reserved`: bytes that reserve() will ask for; a hint that saves
  /// growing.
  explicit Hdf5Writer(std::string name, std::size_t user_block = 0, std::size_t reserved = 0);
  ~Hdf5Writer();
  Hdf5Writer(const Hdf5Writer&) = delete;
  Hdf5Writer& operator=(const Hdf5Writer&) = delete;

  void group(const std::string& path);                        // with its parents; may exist
  void tensor(const std::string& path, const Tensor& value);  // contiguous, on the host
  /// A tensor whose values the caller puts into the finished image, or into a file in place of the
  /// image's zeros there. Returns where: bytes from the image's beginning, of no alignment.
  std::size_t reserve(const std::string& path, DType dtype, const Shape& shape);
  void text(const std::string& path, std::string_view value);
  /// Of an existing group ("/" is the root) or dataset.
  void attribute(const std::string& path, const std::string& name, const Hdf5Attribute& value);

  /// Ends the file; the writer is used up.
  Hdf5Image finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

struct Hdf5Entry {
  enum class Kind : std::uint8_t { group, tensor, text, other } kind = Kind::other;
  std::string name;          // last component of its path
  DType dtype = DType::f32;  // tensor
  Shape shape;               // tensor
};

/// Reads a file. Failures are InputErrors "FILE: PATH: ...". Links out of the file are not followed
/// and datasets whose contents lie in other files are refused, as are those that claim more bytes
/// than are stored; groups that several links lead to, perhaps in a circle, are of kind `other`.
class Hdf5Reader {
 public:
  /// Maps the file.
  explicit Hdf5Reader(const std::string& path);
  /// Reads `image`, which must outlive the reader; `name` is for messages.
  Hdf5Reader(std::string name, std::string_view image);
  Hdf5Reader(Hdf5Reader&&) noexcept;
  Hdf5Reader& operator=(Hdf5Reader&&) noexcept;
  ~Hdf5Reader();

  bool contains(const std::string& path) const;
  /// Members of a group in the order of creation where the file keeps it, else by name.
  std::vector<Hdf5Entry> list(const std::string& group) const;
  Hdf5Entry entry(const std::string& path) const;

  /// Into `out`, which must be contiguous and of the very shape and type in the file.
  void read(const std::string& path, const Tensor& out) const;
  OwnedTensor read(const std::string& path) const;
  std::string text(const std::string& path) const;
  std::map<std::string, Hdf5Attribute> attributes(const std::string& path) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace quietformer
