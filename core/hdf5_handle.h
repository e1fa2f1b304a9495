// Shared by the two halves of core/hdf5.h; not for others, since it includes HDF5's header.
#pragma once

#include <hdf5.h>

#include <mutex>
#include <string>
#include <utility>

#include "core/dtype.h"

namespace quietformer::hdf5 {

/// Sets HDF5 up on first use (no error printing, no exit handler, no plugins) and returns the lock
/// that every call into it must hold.
std::mutex& library_mutex();

/// What HDF5 says about its latest failure, innermost cause, on one line. Clears its error stack.
std::string last_error();

/// Type of elements in a file (little-endian), and in memory.
hid_t file_type(DType dtype);
hid_t memory_type(DType dtype);

/// The attribute that tells 16-bit floating types from u16.
inline constexpr const char* kDTypeAttribute = "dtype";

/// Owns an HDF5 identifier.
class Handle {
 public:
  using Close = herr_t (*)(hid_t);
  Handle() = default;
  Handle(hid_t id, Close close) : id_(id), close_(close) {}
  Handle(Handle&& other) noexcept
      : id_(std::exchange(other.id_, H5I_INVALID_HID)), close_(other.close_) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(close_, other.close_);
    return *this;
  }
  ~Handle() {
    if (id_ >= 0) close_(id_);
  }
  hid_t get() const { return id_; }
  bool valid() const { return id_ >= 0; }
  /// Closes now; false when HDF5 could not.
  bool close() { return close_(std::exchange(id_, H5I_INVALID_HID)) >= 0; }

 private:
  hid_t id_ = H5I_INVALID_HID;
  Close close_ = nullptr;
};

/// A string type: of variable length when `size` is H5T_VARIABLE.
Handle string_type(std::size_t size);

/// A name for an in-memory file: unique, and impossible on disk, because HDF5 looks.
std::string image_name();

}  // namespace quietformer::hdf5
