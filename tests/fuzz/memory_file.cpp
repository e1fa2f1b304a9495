#include "tests/fuzz/memory_file.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <filesystem>
#include <stdexcept>
#include <system_error>

namespace quietformer::fuzz {

MemoryFile::MemoryFile(std::initializer_list<const char*> names)
    : folder_((std::filesystem::temp_directory_path() / "quietformer-fuzz-XXXXXX").string()) {
  descriptor_ = ::memfd_create("quietformer-fuzz", MFD_CLOEXEC);
  if (descriptor_ < 0 || ::mkdtemp(folder_.data()) == nullptr)
    throw std::runtime_error("no file in memory or no temporary folder");
  for (const char* name : names)
    std::filesystem::create_symlink("/proc/self/fd/" + std::to_string(descriptor_), path(name));
}

MemoryFile::~MemoryFile() {
  ::close(descriptor_);
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

void MemoryFile::write(std::string_view contents) {
  if (::ftruncate(descriptor_, static_cast<off_t>(contents.size())) != 0 ||
      ::pwrite(descriptor_, contents.data(), contents.size(), 0) !=
          static_cast<ssize_t>(contents.size()))
    throw std::runtime_error("a file in memory cannot be written");
}

}  // namespace quietformer::fuzz
