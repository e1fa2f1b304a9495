// Regular files opened for reading, with the errors users make turned into one line.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace quietformer {

/// An open regular file. `what` (a config key or option) and the path begin every error message.
/// Throws InputError when the path is missing, unreadable or not a regular file.
class InputFile {
 public:
  InputFile(std::string path, std::string what);
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;
  ~InputFile();

  int descriptor() const { return descriptor_; }
  std::int64_t size() const { return size_; }  // bytes, when it was opened
  const std::string& path() const { return path_; }

  /// Reads up to `bytes` at the current position; 0 at the end. Throws RunError when the device
  /// fails.
  std::int64_t read(void* out, std::int64_t bytes);
  /// Reads up to `bytes` from the start, leaving the position alone.
  std::int64_t peek(void* out, std::int64_t bytes) const;

  /// Throws InputError("WHAT: PATH: problem").
  [[noreturn]] void fail(std::string_view problem) const;

 private:
  std::int64_t checked(std::int64_t result) const;

  std::string path_;
  std::string what_;
  int descriptor_ = -1;
  std::int64_t size_ = 0;
};

}  // namespace quietformer
