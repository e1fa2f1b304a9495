#include "data/unpack.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>
#include <zip.h>
#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <utility>

namespace quietformer {
namespace {

using Bytes = std::vector<std::uint8_t>;
constexpr std::int64_t kBlock = 1 << 16;

// A byte vector that grows as data arrives: sizes stated inside packed files are not to be trusted.
class Growing {
 public:
  std::uint8_t* room() {
    if (size_ + kBlock > static_cast<std::int64_t>(bytes_.size()))
      bytes_.resize(static_cast<std::size_t>(size_ + std::max(kBlock, size_)));
    return bytes_.data() + size_;
  }
  void add(std::int64_t count) { size_ += count; }
  std::int64_t size() const { return size_; }
  Bytes take() {
    bytes_.resize(static_cast<std::size_t>(size_));
    return std::move(bytes_);
  }

 private:
  Bytes bytes_;
  std::int64_t size_ = 0;
};

Bytes read_raw(InputFile& file) {
  Bytes bytes(static_cast<std::size_t>(file.size()));
  std::int64_t size = 0;
  while (size < file.size()) {
    const std::int64_t got = file.read(bytes.data() + size, file.size() - size);
    if (got == 0)
      file.fail(fmt::format("shrank from {} to {} bytes while being read", file.size(), size));
    size += got;
  }
  return bytes;
}

// inflate() rather than gzread(): the latter accepts anything that follows the last member.
class GzipReader {
 public:
  explicit GzipReader(InputFile& file) : file_(file), input_(kBlock) {
    constexpr int kGzipOnly = 15 + 16;
    if (inflateInit2(&stream_, kGzipOnly) != Z_OK) throw std::bad_alloc();
  }
  ~GzipReader() { inflateEnd(&stream_); }
  GzipReader(const GzipReader&) = delete;
  GzipReader& operator=(const GzipReader&) = delete;

  Bytes read() {
    while (more_input()) {
      if (!begins_member()) fail("trailing data after the gzip data");
      inflateReset(&stream_);
      read_member();
    }
    return output_.take();
  }

 private:
  bool more_input() {
    if (stream_.avail_in == 0) {
      stream_.next_in = input_.data();
      stream_.avail_in = static_cast<uInt>(file_.read(input_.data(), kBlock));
    }
    return stream_.avail_in > 0;
  }

  bool begins_member() const { return stream_.next_in[0] == 0x1f; }

  void read_member() {
    for (;;) {
      if (!more_input()) fail("truncated gzip file");
      stream_.next_out = output_.room();
      stream_.avail_out = kBlock;
      const int status = inflate(&stream_, Z_NO_FLUSH);
      output_.add(kBlock - stream_.avail_out);
      if (status == Z_STREAM_END) return;
      if (status == Z_MEM_ERROR) throw std::bad_alloc();
      // Z_BUF_ERROR only means that this call needed more input.
      if (status != Z_OK && status != Z_BUF_ERROR)
        fail(fmt::format("damaged gzip file ({})", stream_.msg ? stream_.msg : "unknown reason"));
    }
  }

  [[noreturn]] void fail(std::string_view problem) const {
    file_.fail(fmt::format("{}; {} bytes came out", problem, output_.size()));
  }

  InputFile& file_;
  Bytes input_;
  z_stream stream_ = {};
  Growing output_;
};

// Names inside an archive are the archive's author's: keep them from breaking an error line.
std::string printable(std::string_view name) {
  std::string text(name.substr(0, 60));
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  return text;
}

struct CloseZip {
  void operator()(zip_t* archive) const { zip_discard(archive); }
  void operator()(zip_file_t* entry) const { zip_fclose(entry); }
};
using ZipArchive = std::unique_ptr<zip_t, CloseZip>;
using ZipEntry = std::unique_ptr<zip_file_t, CloseZip>;

ZipArchive open_archive(const InputFile& file) {
  const int descriptor = ::dup(file.descriptor());  // libzip closes what it is given
  int code = 0;
  ZipArchive archive(zip_fdopen(descriptor, 0, &code));
  if (!archive) {
    ::close(descriptor);
    zip_error_t error;
    zip_error_init_with_code(&error, code);
    const std::string reason = zip_error_strerror(&error);
    zip_error_fini(&error);
    file.fail(fmt::format("truncated or damaged zip archive ({}); 0 bytes came out", reason));
  }
  return archive;
}

zip_uint64_t only_entry(const InputFile& file, zip_t* archive) {
  std::vector<std::string> names;
  zip_uint64_t found = 0;
  const zip_int64_t entries = zip_get_num_entries(archive, 0);
  for (zip_int64_t i = 0; i < entries; ++i) {
    const char* name = zip_get_name(archive, static_cast<zip_uint64_t>(i), ZIP_FL_ENC_GUESS);
    const std::string_view view = name != nullptr ? name : "";
    if (!view.empty() && view.back() == '/') continue;  // a folder
    if (names.empty()) found = static_cast<zip_uint64_t>(i);
    names.push_back(printable(view));
  }
  if (names.empty()) file.fail("zip archive without a file in it");
  if (names.size() > 1) {
    const std::size_t count = names.size();
    if (count > 4) {
      names.resize(4);
      names.push_back("...");
    }
    file.fail(
        fmt::format("zip archive with {} files ({}), expected one", count, fmt::join(names, ", ")));
  }
  return found;
}

Bytes read_zip(const InputFile& file) {
  const ZipArchive archive = open_archive(file);
  const zip_uint64_t index = only_entry(file, archive.get());
  zip_stat_t status;
  zip_stat_init(&status);
  zip_stat_index(archive.get(), index, 0, &status);
  if ((status.valid & ZIP_STAT_ENCRYPTION_METHOD) != 0 && status.encryption_method != ZIP_EM_NONE)
    file.fail("encrypted zip archive");
  const ZipEntry entry(zip_fopen_index(archive.get(), index, 0));
  if (!entry)
    file.fail(
        fmt::format("damaged zip archive ({}); 0 bytes came out", zip_strerror(archive.get())));
  Growing output;
  for (;;) {
    const zip_int64_t got = zip_fread(entry.get(), output.room(), kBlock);
    if (got < 0)
      file.fail(fmt::format("damaged zip archive ({}); {} bytes came out",
                            zip_file_strerror(entry.get()), output.size()));
    if (got == 0) break;
    output.add(got);
  }
  // The checksum is libzip's to verify; a size that disagrees with the directory is ours.
  if ((status.valid & ZIP_STAT_SIZE) != 0 &&
      status.size != static_cast<zip_uint64_t>(output.size()))
    file.fail(fmt::format("damaged zip archive (it promises {} bytes); {} bytes came out",
                          status.size, output.size()));
  return output.take();
}

template <std::size_t N>
bool starts_with(const std::uint8_t* head, std::int64_t size, const char (&magic)[N]) {
  constexpr std::int64_t kLength = N - 1;
  return size >= kLength && std::memcmp(head, magic, kLength) == 0;
}

}  // namespace

Bytes read_unpacked(InputFile& file) {
  std::uint8_t head[10] = {};
  const std::int64_t size = file.peek(head, sizeof(head));
  if (size == 0) file.fail("empty file");
  const auto begins = [&](const auto& magic) { return starts_with(head, size, magic); };
  const auto named = [&](std::string_view end) {
    return std::string_view(file.path()).ends_with(end);
  };
  Bytes bytes;
  if (begins("\x1f\x8b")) {
    bytes = GzipReader(file).read();
  } else if (begins("PK\3\4") || begins("PK\5\6")) {
    bytes = read_zip(file);
  } else if (named(".gz") || named(".zip")) {
    file.fail(
        fmt::format("is neither gzip nor zip (it begins with {:02x} {:02x})", head[0], head[1]));
  } else if (begins("\xfd"
                    "7zXZ") ||
             begins("\x28\xb5\x2f\xfd") ||
             (begins("BZh") && std::memcmp(head + 4, "\x31\x41\x59\x26\x53\x59", 6) == 0)) {
    file.fail("is compressed with bzip2, xz or zstd, expected raw, gzip or zip");
  } else {
    bytes = read_raw(file);
  }
  if (bytes.empty()) file.fail("holds no data");
  return bytes;
}

}  // namespace quietformer
