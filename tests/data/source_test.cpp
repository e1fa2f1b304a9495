#include "data/source.h"

#include <sys/stat.h>

#include "data/generator.h"
#include "tests/data/files.h"

namespace quietformer {
namespace {

SourceRequest bytes_at(std::string path) {
  SourceRequest request;
  request.path = std::move(path);
  return request;
}

SourceRequest tokens_at(std::string path, std::int64_t vocab = 0) {
  SourceRequest request;
  request.kind = SourceKind::tokens;
  request.path = std::move(path);
  request.vocab = vocab;
  return request;
}

std::vector<std::int32_t> ids_of(std::string_view text) {
  std::vector<std::int32_t> ids;
  for (char c : text) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

// Longer than the readers' blocks, with every byte value.
std::string long_text() {
  std::string text;
  for (int i = 0; i < 3'000'000; ++i) text += static_cast<char>((i * 7 + i / 1000) % 256);
  return text;
}

TEST(ByteSource, ReadsRawGzipAndZipAlike) {
  const Folder folder;
  for (const std::string& text :
       {std::string("a"), std::string("quiet \xff\x00 text", 13), long_text()}) {
    const std::string packed = zip(folder, {{"in/", ""}, {"in/enwik8", text}});
    const std::string gz = gzip(text);
    for (const std::string& path :
         {folder.write("raw", text), folder.write("t.gz", gz), folder.write("t.zip", packed)}) {
      const auto source = open_source(bytes_at(path));
      EXPECT_EQ(source->size(), std::ssize(text));
      EXPECT_EQ(source->vocab(), 256);
      EXPECT_EQ(source->name(), path);
      EXPECT_TRUE(read_all(*source) == ids_of(text)) << path;
    }
    // By content, not by name.
    EXPECT_TRUE(read_all(*open_source(bytes_at(folder.write("gz.txt", gz)))) == ids_of(text));
    EXPECT_TRUE(read_all(*open_source(bytes_at(folder.write("zip.gz", packed)))) == ids_of(text));
  }
}

TEST(ByteSource, ReadsGzipOfSeveralMembers) {
  const Folder folder;
  const std::string text = long_text();
  const std::string gz = gzip(text.substr(0, 10)) + gzip("") + gzip(text.substr(10));
  EXPECT_TRUE(read_all(*open_source(bytes_at(folder.write("t.gz", gz)))) == ids_of(text));
}

TEST(ByteSource, CopiesAnyRange) {
  const Folder folder;
  const auto source = open_source(bytes_at(folder.write("t", "abcdef")));
  std::int32_t out[3] = {-1, -1, -1};
  source->copy(2, 2, out);
  EXPECT_EQ(out[0], 'c');
  EXPECT_EQ(out[1], 'd');
  EXPECT_EQ(out[2], -1);
  source->copy(6, 0, out);
  EXPECT_THROW(source->copy(4, 3, out), std::logic_error);
  EXPECT_THROW(source->copy(-1, 1, out), std::logic_error);
}

TEST(ByteSource, ChecksTheVocabulary) {
  const Folder folder;
  SourceRequest request = bytes_at(folder.write("t", "abc\x80"));
  request.vocab = 128;
  EXPECT_EQ(
      input_error([&] { open_source(request); }),
      "data.path: " + request.path + ": byte 3 is 128, expected ids below the vocabulary of 128");
  request.vocab = 129;
  EXPECT_EQ(open_source(request)->vocab(), 129);
  request.vocab = 1000;
  EXPECT_EQ(open_source(request)->vocab(), 256);
}

TEST(ByteSource, GeneratesWikipedia) {
  SourceRequest request = bytes_at("generator:wikipedia");
  request.generated_bytes = 5000;
  const auto source = open_source(request);
  std::string expected(5000, '\0');
  generate_wikipedia(1, 5000, reinterpret_cast<std::uint8_t*>(expected.data()));
  EXPECT_EQ(source->size(), 5000);
  EXPECT_TRUE(read_all(*source) == ids_of(expected));
}

TEST(TokenSource, ReadsNanoGptAndLlmc) {
  const Folder folder;
  const std::vector<std::uint16_t> ids = {50256, 0, 11, 65535, 7};
  const std::vector<std::int32_t> expected(ids.begin(), ids.end());
  for (const std::string& path :
       {folder.write("train.bin", raw(ids)), folder.write("llmc.bin", llmc(ids, 5))}) {
    const auto source = open_source(tokens_at(path));
    EXPECT_EQ(source->size(), 5);
    EXPECT_EQ(source->vocab(), 65536);
    EXPECT_EQ(read_all(*source), expected) << path;
  }
}

TEST(TokenSource, RefusesIdsWhenRead) {
  const Folder folder;
  const std::vector<std::uint16_t> ids = {1, 2, 50257, 3};
  for (const std::string& path :
       {folder.write("t.bin", raw(ids)), folder.write("l.bin", llmc(ids, 4))}) {
    const auto source = open_source(tokens_at(path, 50257));
    EXPECT_EQ(source->vocab(), 50257);
    std::int32_t out[4];
    source->copy(0, 2, out);
    source->copy(3, 1, out);
    EXPECT_EQ(
        input_error([&] { source->copy(1, 3, out); }),
        "data.path: " + path + ": token 2 is 50257, expected ids below the vocabulary of 50257");
  }
}

// BadInput: what users get wrong, one line each.

std::string refused(const SourceRequest& request) {
  const std::string message = input_error([&] { open_source(request); });
  const std::string start = request.what + ": " + request.path + ": ";
  EXPECT_TRUE(message.starts_with(start)) << message;
  return message.size() > start.size() ? message.substr(start.size()) : message;
}

TEST(BadInput, Kind) {
  EXPECT_EQ(source_kind("bytes"), SourceKind::bytes);
  EXPECT_EQ(source_kind("tokens"), SourceKind::tokens);
  EXPECT_EQ(input_error([] { source_kind("words"); }),
            "data.source: unknown source 'words', known: bytes, tokens");
}

TEST(BadInput, Paths) {
  const Folder folder;
  for (SourceKind kind : {SourceKind::bytes, SourceKind::tokens}) {
    SourceRequest request;
    request.kind = kind;
    request.what = "--data";
    request.path = folder.path("absent.gz");
    EXPECT_EQ(refused(request), "no such file");
    request.path = folder.path("");
    EXPECT_EQ(refused(request), "is a directory, expected a file");
    request.path = "/dev/null";
    EXPECT_EQ(refused(request), "is not a regular file");
    request.path = folder.path("pipe");  // opening it must not wait for a writer
    ::mkfifo(request.path.c_str(), 0600);
    EXPECT_EQ(refused(request), "is not a regular file");
    request.path = folder.write("empty", "");
    EXPECT_EQ(refused(request), "empty file");
    request.path = folder.path("empty") + "/in";
    EXPECT_EQ(refused(request), "Not a directory");
    request.path = "";
    EXPECT_EQ(input_error([&] { open_source(request); }), "--data: is empty, expected a file");
  }
}

TEST(BadInput, Generators) {
  EXPECT_EQ(input_error([] { open_source(bytes_at("generator:encarta")); }),
            "data.path: unknown generator 'generator:encarta', known: generator:wikipedia");
  EXPECT_EQ(input_error([] { open_source(tokens_at("generator:wikipedia")); }),
            "data.path: generator:wikipedia makes bytes, not tokens");
}

TEST(BadInput, Gzip) {
  const Folder folder;
  const std::string text = long_text(), gz = gzip(text);
  const auto refused_as = [&](const std::string& bytes) {
    return refused(bytes_at(folder.write("t.gz", bytes)));
  };
  EXPECT_EQ(refused_as("not gzip at all"), "is neither gzip nor zip (it begins with 6e 6f)");
  EXPECT_EQ(refused_as(gzip("")), "holds no data");
  EXPECT_EQ(refused_as(gz.substr(0, 5)), "truncated gzip file; 0 bytes came out");
  // All of the text is there, but not its checksum: still refused.
  for (int missing : {1, 4, 8})
    EXPECT_EQ(refused_as(gz.substr(0, gz.size() - missing)),
              "truncated gzip file; 3000000 bytes came out");
  EXPECT_TRUE(refused_as(gz.substr(0, gz.size() / 2)).starts_with("truncated gzip file; "));
  EXPECT_EQ(refused_as(gz + "x"), "trailing data after the gzip data; 3000000 bytes came out");
  EXPECT_EQ(refused_as(gz + std::string(512, '\0')),
            "trailing data after the gzip data; 3000000 bytes came out");
  EXPECT_EQ(refused_as(gz + gz.substr(0, 12)), "truncated gzip file; 3000000 bytes came out");
  std::string bad = gz;
  bad[bad.size() - 6] ^= 1;
  EXPECT_EQ(refused_as(bad), "damaged gzip file (incorrect data check); 3000000 bytes came out");
}

TEST(BadInput, Zip) {
  const Folder folder;
  const auto refused_as = [&](const std::string& bytes) {
    return refused(bytes_at(folder.write("t.zip", bytes)));
  };
  EXPECT_EQ(refused_as(zip(folder, {{"a", "1"}, {"d/", ""}, {"d/b\n", "2"}})),
            "zip archive with 2 files (a, d/b?), expected one");
  EXPECT_EQ(refused_as(zip(folder, {{"1", ""}, {"2", ""}, {"3", ""}, {"4", ""}, {"5", ""}})),
            "zip archive with 5 files (1, 2, 3, 4, ...), expected one");
  EXPECT_EQ(refused_as(zip(folder, {{"d/", ""}})), "zip archive without a file in it");
  EXPECT_EQ(refused_as(zip(folder, {{"a", ""}})), "holds no data");
  const std::string archive = zip(folder, {{"a", long_text()}});
  for (std::size_t size : {std::size_t{6}, archive.size() / 2, archive.size() - 1})
    EXPECT_TRUE(
        refused_as(archive.substr(0, size)).starts_with("truncated or damaged zip archive ("));
  std::string bad = archive;
  bad[14] ^= 1;  // the checksum in the local header: the directory's counts
  bad[archive.rfind("PK\1\2") + 16] ^= 1;
  EXPECT_EQ(refused_as(bad), "damaged zip archive (CRC error); 3000000 bytes came out");
}

TEST(BadInput, EveryTruncationOfAPackedFile) {
  const Folder folder;
  std::string text;
  for (int i = 0; i < 300; ++i) text += static_cast<char>(i * i * 31 >> 3);
  const std::string gz = gzip(text), archive = zip(folder, {{"text", text}});
  for (std::size_t size = 0; size < gz.size(); ++size)
    refused(bytes_at(folder.write("t.gz", gz.substr(0, size))));
  for (std::size_t size = 0; size < archive.size(); ++size)
    refused(bytes_at(folder.write("t.zip", archive.substr(0, size))));
}

TEST(BadInput, OtherCompression) {
  const Folder folder;
  for (const char* magic : {"\xfd"
                            "7zXZ and more",
                            "\x28\xb5\x2f\xfd and more", "BZh91AY&SY and more"})
    EXPECT_EQ(refused(bytes_at(folder.write("t", magic))),
              "is compressed with bzip2, xz or zstd, expected raw, gzip or zip");
  EXPECT_EQ(open_source(bytes_at(folder.write("t", "BZh")))->size(), 3);
}

TEST(BadInput, TokenFiles) {
  const Folder folder;
  const auto refused_as = [&](const std::string& bytes) {
    return refused(tokens_at(folder.write("t.bin", bytes)));
  };
  const std::vector<std::uint16_t> ids = {1, 2, 3};
  EXPECT_EQ(refused_as("x"), "odd size of 1 bytes, expected 16-bit tokens");
  EXPECT_EQ(refused_as("abcde"), "odd size of 5 bytes, expected 16-bit tokens");
  EXPECT_EQ(refused_as(llmc(ids, 3).substr(0, 100)),
            "llm.c header cut off after 100 of 1024 bytes");
  EXPECT_EQ(refused_as(llmc(ids, 3).substr(0, 4)), "llm.c header cut off after 4 of 1024 bytes");
  EXPECT_EQ(refused_as(llmc(ids, 4)), "llm.c header promises 4 tokens, the file holds 3");
  EXPECT_EQ(refused_as(llmc(ids, 3) + "x"), "llm.c header promises 3 tokens, the file holds 3.5");
  EXPECT_EQ(refused_as(llmc(ids, -3)), "llm.c header promises -3 tokens, the file holds 3");
  EXPECT_EQ(refused_as(llmc({}, 0)), "llm.c header promises 0 tokens, the file holds 0");
  EXPECT_EQ(refused_as(llmc(ids, 3, 20240520, 2)), "llm.c header of version 2, expected 1");
  EXPECT_EQ(refused_as(llmc(ids, 3, 20240801, 7)),
            "llm.c file of 32-bit tokens, expected 16-bit tokens");
  EXPECT_EQ(refused(tokens_at(folder.write("t.bin.gz", gzip("abcd")))),
            "token files are mapped into memory: unpack it first");
}

}  // namespace
}  // namespace quietformer
