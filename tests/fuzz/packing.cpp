#include "tests/fuzz/packing.h"

#include <zlib.h>

#include <algorithm>
#include <stdexcept>

namespace quietformer::fuzz {
namespace {

constexpr int kRaw = -15;  // window bits: deflate without a wrapper

Bytef* input(std::string_view bytes) {
  return reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
}

std::uint32_t crc_of(std::string_view bytes) {
  return static_cast<std::uint32_t>(crc32(0, input(bytes), static_cast<uInt>(bytes.size())));
}

void put(std::string& out, std::uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) out += static_cast<char>(value >> (8 * i) & 0xFF);
}

// The fields that local header and directory share, "version needed" to "extra length".
void put_common(std::string& out, const ZipMember& member, std::string_view packed) {
  put(out, 20, 2);
  put(out, member.flags, 2);
  put(out, member.method, 2);
  put(out, 0, 4);  // time and date
  put(out, crc_of(member.bytes) + member.crc_error, 4);
  put(out, packed.size(), 4);
  put(out, member.bytes.size() + member.size_error, 4);
  put(out, member.name.size(), 2);
  put(out, 0, 2);
}

}  // namespace

std::string deflated(std::string_view bytes, int level, int strategy) {
  z_stream stream = {};
  if (deflateInit2(&stream, level, Z_DEFLATED, kRaw, 1, strategy) != Z_OK)
    throw std::runtime_error("deflateInit2");
  std::string out(deflateBound(&stream, bytes.size()) + 16, '\0');
  stream.next_in = input(bytes);
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  const int status = deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  if (status != Z_STREAM_END) throw std::runtime_error("deflate");
  return out;
}

Inflated inflated(std::string_view bytes, std::size_t most) {
  Inflated result;
  z_stream stream = {};
  if (inflateInit2(&stream, kRaw) != Z_OK) throw std::runtime_error("inflateInit2");
  stream.next_in = input(bytes);
  stream.avail_in = static_cast<uInt>(bytes.size());
  char block[4096];
  int status = Z_OK;
  while (status == Z_OK && result.bytes.size() < most) {
    stream.next_out = reinterpret_cast<Bytef*>(block);
    stream.avail_out = sizeof(block);
    status = inflate(&stream, Z_NO_FLUSH);
    result.bytes.append(block, sizeof(block) - stream.avail_out);
  }
  result.consumed = stream.total_in;
  result.ended = status == Z_STREAM_END;
  inflateEnd(&stream);
  return result;
}

std::string gzip_member(std::string_view stream, std::string_view bytes) {
  std::string out("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03", 10);
  out += stream;
  put(out, crc_of(bytes), 4);
  put(out, bytes.size(), 4);
  return out;
}

std::string zip_archive(const std::vector<ZipMember>& members) {
  std::string out, directory;
  for (const ZipMember& member : members) {
    const std::string packed = member.method == 8 ? deflated(member.bytes, 6, 0) : member.bytes;
    const std::size_t begin = out.size();
    out += "PK\3\4";
    put_common(out, member, packed);
    out += member.name;
    out += packed;
    directory += "PK\1\2";
    put(directory, 20, 2);  // version made by
    put_common(directory, member, packed);
    directory.append(2 + 2 + 2 + 4, '\0');  // comment length, disk, attributes inside and outside
    put(directory, begin, 4);
    directory += member.name;
  }
  const std::size_t begin = out.size();
  out += directory;
  out += "PK\5\6";
  put(out, 0, 4);  // disks
  put(out, members.size(), 2);
  put(out, members.size(), 2);
  put(out, directory.size(), 4);
  put(out, begin, 4);
  put(out, 0, 2);
  return out;
}

}  // namespace quietformer::fuzz
