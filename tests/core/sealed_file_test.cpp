#include "core/sealed_file.h"

#include <gtest/gtest.h>

#include "core/digest.h"
#include "tests/support/scratch.h"

namespace quietformer {
namespace {

using test::error_of;
using test::expect_contains;

constexpr SealKind kKind{"quietformer test", 3};

TEST(Digest, MatchesPublishedValuesAndIgnoresHowBytesArrive) {
  // XXH3-128 with seed 0 of the empty input, from xxhash's own sanity tests.
  EXPECT_EQ(digest_hex(""), "99aa06d3014798d86001c324468d497f");
  std::string text;
  for (int i = 0; i < 5000; ++i) text += static_cast<char>(i * 131 % 256);
  for (const std::size_t cut : {0u, 1u, 17u, 240u, 1024u, 4999u}) {
    DigestStream stream;
    stream.update(std::string_view(text).substr(0, cut));
    stream.update(std::string_view(text).substr(cut));
    EXPECT_EQ(stream.hex(), digest_hex(text));
  }
  EXPECT_NE(digest_hex(text), digest_hex(text.substr(1)));
}

std::string sealed(std::size_t payload) {
  std::string file(kSealBytes, '\0');
  for (std::size_t i = 0; i < payload; ++i) file += static_cast<char>(i * 37);
  seal(file, kKind);
  return file;
}

TEST(Seal, IsReadableText) {
  const std::string file = sealed(0);
  ASSERT_EQ(file.size(), kSealBytes);
  expect_contains(file, "quietformer test\nversion 3\nlength 00000000000000000512\n");
  EXPECT_EQ(file.back(), '\n');
}

TEST(Seal, AcceptsOnlyTheFileItself) {
  for (const std::size_t payload : {0u, 1u, 700u}) {
    const std::string file = sealed(payload);
    EXPECT_NO_THROW(verify_seal(file, kKind, "f"));
    for (std::size_t i = 0; i < file.size(); ++i)
      for (int bit = 0; bit < 8; ++bit) {
        std::string changed = file;
        changed[i] = static_cast<char>(changed[i] ^ (1 << bit));
        EXPECT_THROW(verify_seal(changed, kKind, "f"), InputError) << i << " " << bit;
      }
    for (std::size_t length = 0; length < file.size(); ++length)
      EXPECT_THROW(verify_seal(std::string_view(file).substr(0, length), kKind, "f"), InputError);
    EXPECT_THROW(verify_seal(file + '\0', kKind, "f"), InputError);
  }
}

TEST(Seal, SaysWhatIsWrong) {
  const std::string file = sealed(100);
  const auto message = [](std::string_view bytes, const SealKind& kind = kKind) {
    return error_of([&] { verify_seal(bytes, kind, "f.h5"); });
  };
  EXPECT_EQ(message(""), "f.h5: 0 bytes, expected a quietformer test of at least 512");
  EXPECT_EQ(message(std::string(600, 'x')), "f.h5: not a quietformer test");
  EXPECT_EQ(message(file, {"quietformer other", 3}), "f.h5: not a quietformer other");
  EXPECT_EQ(message(file, {"quietformer test", 4}),
            "f.h5: quietformer test of version 3, expected version 4");
  EXPECT_EQ(message(file.substr(0, 300)),
            "f.h5: truncated quietformer test: 300 bytes, expected at least 512");
  EXPECT_EQ(message(file.substr(0, 611)),
            "f.h5: truncated or damaged quietformer test: 611 bytes, expected 612");
  std::string changed = file;
  changed[600] ^= 1;
  expect_contains(message(changed), "f.h5: damaged quietformer test: digest ");
}

}  // namespace
}  // namespace quietformer
