#include "core/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <system_error>
#include <utility>

#include "core/check.h"

namespace quietformer {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kTemporaryMark = ".tmp-";

std::string reason(int error) {
  return std::generic_category().message(error);
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

int open_retrying(const char* path, int flags, mode_t mode = 0) {
  int fd;
  do {
    fd = ::open(path, flags | O_CLOEXEC, mode);
  } while (fd < 0 && errno == EINTR);
  return fd;
}

// Opens for reading and refuses directories; `status` describes what was opened.
int open_input(const std::string& path, int flags, struct stat& status) {
  const int fd = open_retrying(path.c_str(), O_RDONLY | flags);
  if (fd < 0) throw InputError(fmt::format("{}: cannot open: {}", path, reason(errno)));
  if (::fstat(fd, &status) != 0) {
    const int error = errno;
    ::close(fd);
    throw InputError(fmt::format("{}: cannot examine: {}", path, reason(error)));
  }
  if (S_ISDIR(status.st_mode)) {
    ::close(fd);
    throw InputError(fmt::format("{}: is a directory, expected a file", path));
  }
  return fd;
}

// Where a write to `path` must go: symbolic links resolved, so that a link stays a link and devices
// behind one are noticed (renaming over /dev/stdout would replace the device).
std::string resolve_target(const std::string& path) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) == 0 && S_ISLNK(status.st_mode)) {
    const std::unique_ptr<char, decltype(&std::free)> real(::realpath(path.c_str(), nullptr),
                                                           &std::free);
    if (real == nullptr) throw RunError(fmt::format("{}: cannot write: {}", path, reason(errno)));
    return resolve_target(real.get());
  }
  if (::stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode))
    throw RunError(fmt::format("{}: cannot write: {}", path,
                               S_ISDIR(status.st_mode) ? "is a directory" : "not a regular file"));
  return path;
}

// 0, or the errno of the failure.
int write_all(int fd, std::string_view bytes) {
  constexpr std::size_t kMost = std::size_t{1} << 30;  // Linux writes at most 2 GiB at a time
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd, bytes.data(), std::min(bytes.size(), kMost));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return errno;
    bytes.remove_prefix(static_cast<std::size_t>(written));
  }
  return 0;
}

// Creates the temporary and locks it, which tells remove_stale_temporaries that it is in use. File
// systems without locks work too; there a temporary is never taken for stale.
int create_temporary(const std::string& temporary) {
  for (;;) {
    // Left by a process of the same number, as in containers, where it often is 1.
    ::unlink(temporary.c_str());
    const int fd = open_retrying(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL, 0666);
    if (fd < 0) return fd;
    while (::flock(fd, LOCK_EX) != 0 && errno == EINTR) {
    }
    struct stat status {};
    if (::fstat(fd, &status) == 0 && status.st_nlink > 0) return fd;
    ::close(fd);  // a clean-up took it between open and lock
  }
}

// File systems that cannot sync a directory say EINVAL.
int sync_directory(const std::string& directory) {
  Descriptor fd(open_retrying(directory.c_str(), O_RDONLY | O_DIRECTORY));
  if (fd.get() < 0) return errno;
  return ::fsync(fd.get()) == 0 || errno == EINVAL ? 0 : errno;
}

using MakeFile = std::function<void(FileWriter& file)>;

// Ends the making of a file.
struct WriteFailure {
  int error;
};

int write_and_rename(const std::string& temporary, const std::string& target,
                     const MakeFile& make) {
  Descriptor fd(create_temporary(temporary));
  if (fd.get() < 0) return errno;
  int error = 0;
  FileWriter writer(fd.get());
  try {
    make(writer);
  } catch (const WriteFailure& failure) {
    error = failure.error;
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  if (error == 0 && ::fsync(fd.get()) != 0) error = errno;
  // Renamed while still open: closing gives up the lock.
  if (error == 0 && ::rename(temporary.c_str(), target.c_str()) != 0) error = errno;
  if (error != 0) ::unlink(temporary.c_str());
  return error;
}

bool is_temporary_name(std::string_view name) {
  const std::size_t mark = name.rfind(kTemporaryMark);
  if (name.empty() || name.front() != '.' || mark == std::string_view::npos || mark < 2)
    return false;
  const std::string_view pid = name.substr(mark + kTemporaryMark.size());
  return !pid.empty() &&
         std::all_of(pid.begin(), pid.end(), [](unsigned char c) { return c >= '0' && c <= '9'; });
}

bool remove_if_stale(const std::string& path) {
  struct stat held {
  }, named{};
  Descriptor fd(open_retrying(path.c_str(), O_WRONLY | O_NOFOLLOW | O_NONBLOCK));
  if (fd.get() < 0 || ::fstat(fd.get(), &held) != 0 || !S_ISREG(held.st_mode)) return false;
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) return false;
  // Its writer may have renamed it and begun another of the same name before the lock was ours.
  if (::lstat(path.c_str(), &named) != 0 || named.st_ino != held.st_ino) return false;
  return ::unlink(path.c_str()) == 0;
}

}  // namespace

std::string read_file(const std::string& path, std::size_t max_bytes) {
  struct stat status {};
  Descriptor fd(open_input(path, 0, status));
  std::string contents;
  if (S_ISREG(status.st_mode))
    contents.reserve(std::min(static_cast<std::size_t>(status.st_size), max_bytes));
  std::array<char, 1 << 16> block;
  for (;;) {
    const ssize_t got = ::read(fd.get(), block.data(), block.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw InputError(fmt::format("{}: cannot read: {}", path, reason(errno)));
    if (got == 0) return contents;
    if (static_cast<std::size_t>(got) > max_bytes - contents.size())
      throw InputError(
          fmt::format("{}: longer than the {} bytes expected at most", path, max_bytes));
    contents.append(block.data(), static_cast<std::size_t>(got));
  }
}

MappedFile::MappedFile(const std::string& path) : path_(path) {
  struct stat status {};
  // Without O_NONBLOCK, opening a named pipe would wait for a writer.
  Descriptor fd(open_input(path, O_NONBLOCK, status));
  if (!S_ISREG(status.st_mode))
    throw InputError(fmt::format("{}: is a pipe or device, expected a regular file", path));
  if (status.st_size == 0) return;
  void* data = ::mmap(nullptr, static_cast<std::size_t>(status.st_size), PROT_READ, MAP_PRIVATE,
                      fd.get(), 0);
  if (data == MAP_FAILED) throw RunError(fmt::format("{}: cannot map: {}", path, reason(errno)));
  data_ = static_cast<const char*>(data);
  size_ = static_cast<std::size_t>(status.st_size);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<char*>(data_), size_);
}

void MappedFile::forget(std::string_view part) const {
  if (part.empty()) return;
  QF_EXPECTS(part.data() >= data_ && part.data() + part.size() <= data_ + size_);
  // The mapping begins at a page, so pages can be counted from there.
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const std::size_t begin = static_cast<std::size_t>(part.data() - data_);
  const std::size_t first = (begin + page - 1) / page * page;
  const std::size_t last = (begin + part.size()) / page * page;
  // Advice: where it is not taken, pages stay until the mapping goes.
  if (first < last) ::madvise(const_cast<char*>(data_) + first, last - first, MADV_DONTNEED);
}

void FileWriter::write(std::string_view bytes) {
  if (const int error = write_all(descriptor_, bytes); error != 0) throw WriteFailure{error};
}

void FileWriter::rewrite(std::size_t offset, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written =
        ::pwrite(descriptor_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) throw WriteFailure{errno};
    bytes.remove_prefix(static_cast<std::size_t>(written));
    offset += static_cast<std::size_t>(written);
  }
}

void write_file_atomically(const std::string& path, const MakeFile& make) {
  const fs::path target = resolve_target(path);
  const std::string directory = target.has_parent_path() ? target.parent_path().string() : ".";
  const std::string temporary =
      fmt::format("{}/.{}{}{}", directory, target.filename().string(), kTemporaryMark, ::getpid());
  int error = write_and_rename(temporary, target.string(), make);
  if (error == 0) error = sync_directory(directory);
  if (error != 0) throw RunError(fmt::format("{}: cannot write: {}", path, reason(error)));
}

void write_file_atomically(const std::string& path, std::span<const std::string_view> pieces) {
  write_file_atomically(path, [&](FileWriter& file) {
    for (const std::string_view piece : pieces) file.write(piece);
  });
}

void write_file_atomically(const std::string& path, std::string_view contents) {
  write_file_atomically(path, std::span<const std::string_view>(&contents, 1));
}

int remove_stale_temporaries(const std::string& directory) {
  int removed = 0;
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    if (is_temporary_name(entry->path().filename().string()))
      removed += remove_if_stale(entry->path().string()) ? 1 : 0;
  }
  return removed;
}

}  // namespace quietformer
