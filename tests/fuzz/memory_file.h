// Files that readers open by name and that never touch a disk.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>

namespace quietformer::fuzz {

/// A file in memory (memfd) under one or several names in a temporary folder of its own, which goes
/// when the process ends. Writing replaces the contents in place: nothing may have them mapped.
class MemoryFile {
 public:
  explicit MemoryFile(std::initializer_list<const char*> names);
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  ~MemoryFile();

  const std::string& folder() const { return folder_; }
  std::string path(const char* name) const { return folder_ + "/" + name; }
  void write(std::string_view contents);

 private:
  std::string folder_;
  int descriptor_ = -1;
};

}  // namespace quietformer::fuzz
