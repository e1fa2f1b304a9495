// Reading files, mapping them, and replacing them so that nothing half-written is ever seen.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>

namespace quietformer {

/// The whole contents of a regular file or a pipe.
/// InputError when it cannot be opened, is a directory or is longer than `max_bytes`.
std::string read_file(const std::string& path, std::size_t max_bytes = std::size_t{1} << 30);

/// A regular file mapped read-only; the bytes live as long as this object. Movable, not copyable.
/// InputError when the file cannot be opened or is not a regular file. Whoever replaces files by
/// rename (write_file_atomically) does not disturb a mapping; truncating one in place does
/// (SIGBUS).
class MappedFile {
 public:
  explicit MappedFile(const std::string& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::string_view bytes() const { return {data_, size_}; }
  /// Pages that lie wholly in `part` of bytes() no longer count as this process's memory; whoever
  /// reads them again has them read from the file again.
  void forget(std::string_view part) const;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  const char* data_ = nullptr;
  std::size_t size_ = 0;
};

/// Replaces `path` by the concatenation of `pieces`: written under the temporary name
/// ".NAME.tmp-PID" in the same directory, synced, renamed over `path`, the directory synced. So
/// whoever opens `path` sees the old contents or the new ones, whenever the process or machine
/// dies. A symbolic link is followed. Two threads must not write the same path at once.
///
/// On any failure the temporary is removed, `path` is as before, and RunError says path and reason.
/// For a file size limit (RLIMIT_FSIZE) to fail that way the process must ignore SIGXFSZ.
void write_file_atomically(const std::string& path, std::span<const std::string_view> pieces);
void write_file_atomically(const std::string& path, std::string_view contents);
/// What write_file_atomically gives to whoever makes a file piece by piece.
class FileWriter {
 public:
  explicit FileWriter(int descriptor) : descriptor_(descriptor) {}
  void write(std::string_view bytes);  // at the end
  /// Over bytes that were written before: a header that needs to know the rest.
  void rewrite(std::size_t offset, std::string_view bytes);

 private:
  int descriptor_;
};

/// The same for a file that is made while it is written, in `make`; what that throws ends the
/// writing like any failure.
void write_file_atomically(const std::string& path,
                           const std::function<void(FileWriter& file)>& make);

/// Removes temporaries of write_file_atomically that no living process is writing (a writer holds a
/// lock on its temporary); returns how many. An absent directory has none. Temporaries that cannot
/// be locked or removed stay where they are.
int remove_stale_temporaries(const std::string& directory);

}  // namespace quietformer
