// Owning memory, and the arena that sub-allocates all tensors of a model in two passes.
// Sizes and offsets are bytes, shapes are elements.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"

namespace quietformer {

/// Owns one aligned, zero-filled block of memory. Movable, not copyable.
/// Throws RunError naming the bytes asked for when memory is short; on a GPU see
/// core/cuda/memory.h.
class Buffer {
 public:
  static constexpr std::int64_t kAlignment = 64;

  Buffer() = default;
  explicit Buffer(std::int64_t bytes, Device device = {});
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer();

  void* data() const { return data_; }
  std::int64_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  std::int64_t bytes_ = 0;
  Device device_;
};

/// A Buffer with a shape, contiguous and zero-filled: for tests, tools and data that lives outside
/// an arena. Movable, not copyable; views stay valid when it moves, not when it dies.
class OwnedTensor {
 public:
  OwnedTensor() = default;
  OwnedTensor(DType dtype, const Shape& shape, Device device = {});
  const Tensor& view() const { return view_; }
  operator const Tensor&() const { return view_; }
  template <class T>
  T* as() const {
    return view_.as<T>();
  }

 private:
  Buffer buffer_;
  Tensor view_;
};

/// `host`, or its copy on a GPU; waits.
OwnedTensor to_device(OwnedTensor host, Device device);

class Arena;

/// A tensor promised by an arena: usable once the arena is committed (before: std::logic_error).
/// Empty slots convert to an absent Tensor.
class Slot {
 public:
  Slot() = default;
  operator Tensor() const { return get(); }
  Tensor get() const;
  explicit operator bool() const { return arena_ != nullptr; }

 private:
  friend class Arena;
  Slot(const Arena* arena, int index) : arena_(arena), index_(index) {}
  const Arena* arena_ = nullptr;
  int index_ = 0;
};

/// Sub-allocates named tensors from one buffer: declare everything, then commit once. So the peak
/// is known (and printed) before the first step, a step allocates nothing and pointers never move.
/// An arena must outlive its slots and stays where it is (not copyable, not movable). Declaring
/// after commit() and committing twice are std::logic_error.
class Arena {
 public:
  /// Tensors start at multiples of `alignment` bytes, itself one of Buffer::kAlignment.
  explicit Arena(std::string name, Device device = {}, std::int64_t alignment = Buffer::kAlignment)
      : name_(std::move(name)), device_(device), alignment_(alignment) {}
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// A tensor of its own; zero after commit. Names must be unique within the arena. `reserved` more
  /// elements behind it are padding, which nothing else uses.
  Slot declare(std::string_view name, DType dtype, const Shape& shape, std::int64_t reserved = 0);

  /// A tensor in memory that all declarations of this name share (the largest one decides the
  /// size): for temporaries whose contents nobody needs after the operation that wrote them
  /// returns.
  Slot declare_shared(std::string_view name, DType dtype, const Shape& shape);

  void commit();  // RunError naming the arena when memory is short
  bool committed() const { return committed_; }
  std::int64_t bytes() const;  // of everything declared so far, padding included
  const std::string& name() const { return name_; }
  std::int64_t alignment() const { return alignment_; }

  /// The committed memory from the first to the last unshared tensor of one type, as one flat
  /// tensor: lets the optimizer treat all parameters in one pass. Padding between tensors is zero.
  /// std::logic_error when an unshared tensor has another type.
  Tensor flat(DType dtype) const;

  /// One line per segment, largest first: "  12.0 MiB  blocks.*.attention.qkv". Layer numbers fold.
  std::string report() const;

 private:
  friend class Slot;
  struct Entry {
    std::string name;
    Tensor view;
    std::int64_t offset = 0;
    int shared = -1;  // index into segments_, or -1
  };
  struct Segment {
    std::int64_t bytes = 0;
    std::int64_t offset = 0;
  };

  std::string name_;
  Device device_;
  std::int64_t alignment_;
  std::vector<Entry> entries_;
  std::map<std::string, int, std::less<>> names_;
  std::map<std::string, int, std::less<>> shared_names_;
  std::vector<Segment> segments_;
  std::int64_t private_bytes_ = 0;
  Buffer buffer_;
  bool committed_ = false;
};

}  // namespace quietformer
