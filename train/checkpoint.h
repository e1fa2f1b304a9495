// The native checkpoint: everything a run needs to go on bit for bit, in one HDF5 file that also
// opens in h5py and the HDF5 tools.
//
// The file begins with a 512-byte seal (core/sealed_file.h) in HDF5's user block; length and digest
// are verified before HDF5 sees a byte, so a truncated or damaged file is one InputError. It holds
//   /text/NAME              texts: the resolved config, ...
//   /integers, /numbers     scalars, as attributes
//   /GROUP/.../NAME         tensors: "parameters/head.weight" is dataset head.weight in parameters
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/file.h"
#include "core/hdf5.h"
#include "core/tensor.h"

namespace quietformer {

/// Contiguous memory that somebody else owns, on the host or a GPU.
struct NamedTensor {
  std::string name;
  Tensor tensor;
};

/// A tensor that is made when its turn comes to be written: `write` fills host memory, which the
/// next one reuses.
struct DeferredTensor {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
  std::function<void(void* out)> write;
  /// Where whole rows (of the first dimension) can be made alone: then no more than about a
  /// megabyte of them is in memory at a time.
  std::function<void(std::int64_t first, std::int64_t rows, void* out)> write_rows{};
};

/// Makes the tensor's bytes from front to back and hands them to `sink`, in pieces that lie in
/// `memory`.
void make_tensor(const DeferredTensor& tensor, std::vector<char>& memory,
                 const std::function<void(std::string_view bytes)>& sink);

struct Checkpoint {
  std::map<std::string, std::string> text;
  std::map<std::string, std::int64_t> integers;
  std::map<std::string, double> numbers;
  std::vector<NamedTensor> tensors;      // the file keeps their order within each group
  std::vector<DeferredTensor> deferred;  // after them
};

/// Writes atomically (core/file.h): afterwards `path` holds this checkpoint, or on failure
/// (RunError) what it held before. Names of tensors have a group, and are unique. Equal contents
/// make equal files. Tensors on a GPU pass through the host one by one; the GPU is waited for.
void write_checkpoint(const std::string& path, const Checkpoint& checkpoint);

struct TensorInfo {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
};

/// An open checkpoint. Every failure is an InputError naming the file and what in it.
class CheckpointReader {
 public:
  /// Verifies the whole file, then reads everything but the tensors' values.
  explicit CheckpointReader(const std::string& path);

  const std::string& path() const { return file_.path(); }
  const std::map<std::string, std::string>& texts() const { return contents_.text; }
  const std::map<std::string, std::int64_t>& integers() const { return contents_.integers; }
  const std::map<std::string, double>& numbers() const { return contents_.numbers; }
  const std::vector<TensorInfo>& tensors() const { return tensors_; }

  // InputError when absent.
  const std::string& text(const std::string& name) const;
  std::int64_t integer(const std::string& name) const;
  double number(const std::string& name) const;

  const TensorInfo* find(std::string_view name) const;  // null when absent
  /// Copies a tensor into `out`, which must have its shape and type, on any device.
  void read(const std::string& name, const Tensor& out) const;

 private:
  void list_tensors(const std::string& group, int depth);

  MappedFile file_;
  Hdf5Reader hdf5_;
  Checkpoint contents_;  // without tensors
  std::vector<TensorInfo> tensors_;
};

}  // namespace quietformer
