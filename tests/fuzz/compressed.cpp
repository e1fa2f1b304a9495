// Text sources. KIND, then by KIND:
//   file      the rest is the file, packed or not
//   gzip      (SETTINGS LENGTH BYTES)...: members packed by zlib; must read back
//   deflate   a raw stream, wrapped as gzip with the checksum of what it holds; must read back
//   zip       COUNT members, then PATCHES of three bytes (offset, offset, bits)
#include <algorithm>
#include <optional>
#include <vector>

#include "data/source.h"
#include "tests/fuzz/memory_file.h"
#include "tests/fuzz/packing.h"
#include "tests/fuzz/target.h"

namespace quietformer::fuzz {
namespace {

constexpr std::size_t kMostBytes = 1 << 22;

struct Packed {
  std::string file;
  std::optional<std::string> holds;  // known only when nothing is wrong with the file
};

Packed gzip(Recipe& recipe) {
  Packed packed{"", ""};
  while (!recipe.empty()) {
    const unsigned settings = recipe.byte();
    const std::string piece = recipe.text(recipe.byte());
    packed.file += gzip_member(
        deflated(piece, static_cast<int>(settings % 10), static_cast<int>(settings / 10 % 5)),
        piece);
    *packed.holds += piece;
  }
  return packed;
}

Packed deflate_stream(Recipe& recipe) {
  const std::string_view stream = recipe.rest();
  const Inflated inside = inflated(stream, kMostBytes);
  Packed packed;
  packed.file = gzip_member(stream.substr(0, inside.consumed), inside.bytes);
  packed.file += stream.substr(inside.consumed);
  if (inside.ended && inside.consumed == stream.size()) packed.holds = inside.bytes;
  return packed;
}

ZipMember zip_member(Recipe& recipe, bool& honest) {
  constexpr std::uint16_t kMethods[] = {0, 8, 8, 12, 14, 93, 95, 6};
  ZipMember member;
  const unsigned shape = recipe.byte();
  member.method = kMethods[shape % 8];
  if (shape / 8 % 8 == 1) member.flags = static_cast<std::uint16_t>(recipe.byte());
  if (shape / 8 % 8 == 2) member.crc_error = recipe.byte();
  if (shape / 8 % 8 == 3) member.size_error = recipe.byte() - 128u;
  member.name = recipe.text(recipe.below(32));
  member.bytes = recipe.text(recipe.byte());
  honest = honest && member.method <= 8 && member.method != 6 && member.flags == 0 &&
           member.crc_error == 0 && member.size_error == 0;
  return member;
}

Packed zip(Recipe& recipe) {
  bool honest = true;
  std::vector<ZipMember> members(recipe.below(8));
  for (ZipMember& member : members) member = zip_member(recipe, honest);
  Packed packed;
  packed.file = zip_archive(members);
  const std::string_view patches = recipe.rest();
  for (std::size_t i = 0; i + 2 < patches.size(); i += 3) {
    const std::size_t at =
        static_cast<unsigned char>(patches[i]) * 256u + static_cast<unsigned char>(patches[i + 1]);
    char& patched = packed.file[at % packed.file.size()];
    patched = static_cast<char>(patched ^ patches[i + 2]);
  }
  const bool plain = members.size() == 1 && !members[0].name.empty() &&
                     members[0].name.find('\0') == std::string::npos &&
                     members[0].name.back() != '/';
  if (honest && plain && patches.size() < 3) packed.holds = members[0].bytes;
  return packed;
}

Packed pack(unsigned kind, Recipe& recipe) {
  switch (kind % 4) {
    case 1:
      return gzip(recipe);
    case 2:
      return deflate_stream(recipe);
    case 3:
      return zip(recipe);
    default:
      return {std::string(recipe.rest()), std::nullopt};
  }
}

std::string read_all(const TokenSource& source) {
  std::vector<std::int32_t> ids(static_cast<std::size_t>(source.size()));
  source.copy(0, source.size(), ids.data());
  std::string bytes(ids.size(), '\0');
  for (std::size_t i = 0; i < ids.size(); ++i) {
    expect(ids[i] >= 0 && ids[i] < source.vocab(), "an id is below the vocabulary");
    bytes[i] = static_cast<char>(ids[i]);
  }
  return bytes;
}

}  // namespace

Outcome fuzz_compressed(std::string_view bytes) {
  static MemoryFile file{"text", "text.gz", "text.zip"};
  Recipe recipe(bytes);
  const unsigned kind = recipe.byte();
  constexpr const char* kNames[] = {"text", "text.gz", "text.zip"};
  SourceRequest request;
  request.path = file.path(kNames[kind / 4 % 3]);
  request.vocab = kind / 16 % 4 == 3 ? 128 : 0;
  const Packed packed = pack(kind, recipe);
  file.write(packed.file);
  std::string found;
  const Outcome outcome = attempt([&] { found = read_all(*open_source(request)); });
  if (packed.holds && !packed.holds->empty() && request.vocab == 0)
    expect(outcome == Outcome::read && found == *packed.holds, "what was packed is read back");
  return outcome;
}

}  // namespace quietformer::fuzz
