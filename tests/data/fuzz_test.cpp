// Noise, and real files with noise in them: read or refused in one line, never a crash.
#include <random>

#include "tests/data/files.h"

namespace quietformer {
namespace {

// Fixed by the C++ standard, unlike the distributions.
using Noise = std::mt19937;

std::string noise(Noise& random, std::size_t size) {
  std::string bytes(size, '\0');
  for (char& c : bytes) c = static_cast<char>(random());
  return bytes;
}

std::string damaged(Noise& random, std::string bytes) {
  switch (random() % 4) {
    case 0:
      bytes.resize(random() % (bytes.size() + 1));
      break;
    case 1:
      for (int i = 0; i < 3; ++i)
        bytes[random() % bytes.size()] ^= static_cast<char>(1 << random() % 8);
      break;
    case 2:
      bytes.insert(random() % bytes.size(), noise(random, random() % 20));
      break;
    default:
      for (std::size_t i = random() % bytes.size(), n = random() % 30; n > 0 && i < bytes.size();
           --n, ++i)
        bytes[i] = static_cast<char>(random() % 3 == 0 ? 0xff : random());
  }
  return bytes;
}

// Whether the file was read; anything thrown but InputError fails the test.
bool survives(const Folder& folder, const std::string& name, SourceKind kind,
              const std::string& bytes) {
  SourceRequest request;
  request.kind = kind;
  request.path = folder.write(name, bytes);
  request.vocab = kind == SourceKind::tokens ? 60000 : 256;
  try {
    const auto source = open_source(request);
    for (std::int32_t id : read_all(*source)) EXPECT_TRUE(id >= 0 && id < source->vocab());
    return true;
  } catch (const InputError& error) {
    const std::string_view message = error.what();
    EXPECT_TRUE(message.starts_with("data.path: " + request.path + ": ")) << message;
    EXPECT_EQ(message.find('\n'), std::string_view::npos) << message;
    return false;
  }
}

TEST(Fuzz, Noise) {
  const Folder folder;
  Noise random(1);
  for (int round = 0; round < 600; ++round) {
    const std::string body = noise(random, random() % 3000);
    EXPECT_FALSE(survives(folder, "n.gz", SourceKind::bytes, body));
    EXPECT_FALSE(survives(folder, "n.zip", SourceKind::bytes, body));
    EXPECT_FALSE(survives(folder, "n.gz", SourceKind::bytes, "\x1f\x8b\x08" + body));
    EXPECT_FALSE(survives(folder, "n.zip", SourceKind::bytes, "PK\3\4" + body));
    survives(folder, "n.bin", SourceKind::tokens, body);
    survives(folder, "n.bin", SourceKind::tokens,
             llmc({}, static_cast<std::int32_t>(random() % 2000)) + body);
  }
}

TEST(Fuzz, DamagedFiles) {
  const Folder folder;
  Noise random(2);
  std::string text;
  while (text.size() < 4000) text += "the quiet former " + std::to_string(random() % 100) + ' ';
  const std::string gz = gzip(text.substr(0, 2000)) + gzip(text.substr(2000));
  const std::string archive = zip(folder, {{"folder/", ""}, {"folder/text", text}});
  std::vector<std::uint16_t> ids(500);
  for (auto& id : ids) id = static_cast<std::uint16_t>(random() % 50257);
  const std::string tokens = llmc(ids, 500);
  ASSERT_TRUE(survives(folder, "t.gz", SourceKind::bytes, gz));
  ASSERT_TRUE(survives(folder, "t.zip", SourceKind::bytes, archive));
  ASSERT_TRUE(survives(folder, "t.bin", SourceKind::tokens, tokens));
  for (int round = 0; round < 1500; ++round) {
    survives(folder, "t.gz", SourceKind::bytes, damaged(random, gz));
    survives(folder, "t.zip", SourceKind::bytes, damaged(random, archive));
    survives(folder, "t.bin", SourceKind::tokens, damaged(random, tokens));
  }
}

TEST(Fuzz, EveryTruncationOfAGzipIsRefused) {
  const Folder folder;
  Noise random(3);
  const std::string gz = gzip("text " + noise(random, 300));
  for (std::size_t size = 0; size < gz.size(); ++size)
    EXPECT_FALSE(survives(folder, "t.gz", SourceKind::bytes, gz.substr(0, size))) << size;
  const std::string archive = zip(folder, {{"text", noise(random, 300)}});
  for (std::size_t size = 0; size < archive.size(); ++size)
    EXPECT_FALSE(survives(folder, "t.zip", SourceKind::bytes, archive.substr(0, size))) << size;
}

}  // namespace
}  // namespace quietformer
