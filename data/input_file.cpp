#include "data/input_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "core/check.h"

namespace quietformer {

InputFile::InputFile(std::string path, std::string what)
    : path_(std::move(path)), what_(std::move(what)) {
  if (path_.empty()) throw InputError(fmt::format("{}: is empty, expected a file", what_));
  // Without O_NONBLOCK, opening a named pipe would wait for a writer.
  descriptor_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor_ < 0) fail(errno == ENOENT ? "no such file" : std::strerror(errno));
  struct stat status = {};
  const bool known = ::fstat(descriptor_, &status) == 0;
  if (!known || !S_ISREG(status.st_mode)) {
    ::close(descriptor_);  // a constructor that throws runs no destructor
    fail(known && S_ISDIR(status.st_mode) ? "is a directory, expected a file"
                                          : "is not a regular file");
  }
  size_ = status.st_size;
}

InputFile::~InputFile() {
  ::close(descriptor_);
}

std::int64_t InputFile::read(void* out, std::int64_t bytes) {
  ssize_t got;
  do {
    got = ::read(descriptor_, out, static_cast<std::size_t>(bytes));
  } while (got < 0 && errno == EINTR);
  return checked(got);
}

std::int64_t InputFile::peek(void* out, std::int64_t bytes) const {
  return checked(::pread(descriptor_, out, static_cast<std::size_t>(bytes), 0));
}

std::int64_t InputFile::checked(std::int64_t result) const {
  if (result < 0)
    throw RunError(fmt::format("{}: {}: cannot read: {}", what_, path_, std::strerror(errno)));
  return result;
}

void InputFile::fail(std::string_view problem) const {
  throw InputError(fmt::format("{}: {}: {}", what_, path_, problem));
}

}  // namespace quietformer
