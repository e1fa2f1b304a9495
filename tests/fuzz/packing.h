// gzip and zip written by hand: right where the recipe says nothing else.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace quietformer::fuzz {

/// A raw deflate stream.
std::string deflated(std::string_view bytes, int level, int strategy);

struct Inflated {
  std::string bytes;
  std::size_t consumed = 0;
  bool ended = false;
};
/// What a raw deflate stream holds, up to its end, an error in it or `most` bytes.
Inflated inflated(std::string_view stream, std::size_t most);

/// A gzip member around a raw deflate stream of `bytes`.
std::string gzip_member(std::string_view stream, std::string_view bytes);

struct ZipMember {
  std::string name;
  std::string bytes;
  std::uint16_t method = 0;  // 0 stored; 8 deflated; others keep the bytes as they are
  std::uint16_t flags = 0;
  std::uint32_t crc_error = 0, size_error = 0;  // added to the right values
};
std::string zip_archive(const std::vector<ZipMember>& members);

}  // namespace quietformer::fuzz
