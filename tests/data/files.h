// Files for the data tests: a folder that goes away, gzip and zip written on the spot.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>
#include <zip.h>
#include <zlib.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/check.h"
#include "data/source.h"

namespace quietformer {

class Folder {
 public:
  Folder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "qf-data-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw RunError("no temporary folder");
    path_ = pattern;
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  std::string path(const std::string& name) const { return (path_ / name).string(); }
  std::string write(const std::string& name, std::string_view bytes) const {
    // A new file: some file systems flush to the disk when an old one is truncated and rewritten.
    std::filesystem::remove(path_ / name);
    std::ofstream(path(name), std::ios::binary).write(bytes.data(), std::ssize(bytes));
    return path(name);
  }

 private:
  std::filesystem::path path_;
};

inline std::string gzip(std::string_view bytes) {
  z_stream stream = {};
  EXPECT_EQ(deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(deflateBound(&stream, bytes.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

using ZipMember = std::pair<std::string, std::string>;  // name (a folder's ends in '/'), contents

inline std::string zip(const Folder& folder, const std::vector<ZipMember>& members) {
  const std::string path = folder.path("made.zip");
  int error = 0;
  zip_t* archive = zip_open(path.c_str(), ZIP_CREATE | ZIP_TRUNCATE, &error);
  EXPECT_NE(archive, nullptr);
  for (const auto& [name, bytes] : members) {
    if (name.ends_with('/')) {
      EXPECT_GE(zip_dir_add(archive, name.c_str(), 0), 0);
    } else {
      zip_source_t* source = zip_source_buffer(archive, bytes.data(), bytes.size(), 0);
      EXPECT_GE(zip_file_add(archive, name.c_str(), source, 0), 0);
    }
  }
  EXPECT_EQ(zip_close(archive), 0);
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

template <class T>
std::string raw(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

/// llm.c's token file.
inline std::string llmc(const std::vector<std::uint16_t>& ids, std::int32_t count,
                        std::int32_t magic = 20240520, std::int32_t version = 1) {
  std::vector<std::int32_t> header(256);
  header[0] = magic;
  header[1] = version;
  header[2] = count;
  return raw(header) + raw(ids);
}

inline std::vector<std::int32_t> read_all(const TokenSource& source) {
  std::vector<std::int32_t> ids(static_cast<std::size_t>(source.size()));
  source.copy(0, source.size(), ids.data());
  return ids;
}

/// A source for tests of what reads one: token i is i.
class Counting final : public TokenSource {
 public:
  explicit Counting(std::int64_t size) : TokenSource("counting", size, size) {}
  void copy(std::int64_t begin, std::int64_t count, std::int32_t* out) const override {
    QF_EXPECTS(begin >= 0 && count >= 0 && begin + count <= size());
    for (std::int64_t i = 0; i < count; ++i) out[i] = static_cast<std::int32_t>(begin + i);
  }
};

/// The message of the InputError that `action` throws, checked to be one line without a full stop.
template <class Action>
std::string input_error(Action&& action) {
  try {
    action();
  } catch (const InputError& error) {
    const std::string message = error.what();
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    EXPECT_NE(message.back(), '.') << message;
    return message;
  }
  ADD_FAILURE() << "no InputError";
  return "";
}

}  // namespace quietformer
