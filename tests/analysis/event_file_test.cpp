// Event files against bytes that TensorFlow writes; tests/system/tensorboard_test.py reads them
// with TensorBoard.
#include "analysis/event_file.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "core/check.h"
#include "core/file.h"
#include "tests/support/scratch.h"

namespace quietformer {
namespace {

using namespace std::string_literals;

// RFC 3720, B.4, and the check value of catalogues of CRCs.
TEST(EventFiles, CastagnolisCrc) {
  EXPECT_EQ(crc32c(""), 0u);
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43u);
}

TEST(EventFiles, Framing) {
  // How event files of TensorFlow begin: a version record of 24 bytes.
  const std::string record = tfrecord(std::string(24, 'x'));
  EXPECT_EQ(record.substr(0, 12), "\x18\0\0\0\0\0\0\0\xa3\x7f\x4b\x22"s);
  EXPECT_EQ(record.size(), 8u + 4 + 24 + 4);
  EXPECT_EQ(record.substr(12, 24), std::string(24, 'x'));
  // Nothing has CRC 0, which is masked all the same.
  EXPECT_EQ(tfrecord("").substr(12), "\xd8\xea\x82\xa2"s);
}

std::vector<std::string> records_of(const std::string& file) {
  std::vector<std::string> records;
  for (std::size_t at = 0; at < file.size();) {
    const std::size_t length = static_cast<unsigned char>(file.at(at));  // below 256 here
    records.push_back(file.substr(at + 12, length));
    EXPECT_EQ(file.substr(at, 16 + length), tfrecord(records.back()));
    at += 16 + length;
  }
  return records;
}

// Field 1 is the time of day; after it: 0x10 step, 0x1a file_version, 0x2a summary, 0x3a
// session_log.
TEST(EventFiles, BytesOfEvents) {
  const test::ScratchFolder scratch;
  const std::string directory = scratch / "run/tensorboard";
  if (!event_files_built()) {
    EXPECT_THROW(EventFile(directory, 1), InputError);
    GTEST_SKIP() << "built without protobuf";
  }
  {
    EventFile file(directory, 7);
    file.write(300, std::vector<NamedValue>{{"a/b", 1.5}, {"c", 0}});
    EventFile again(directory, 301);  // a file of its own
  }
  std::vector<std::string> paths;
  for (const auto& entry : std::filesystem::directory_iterator(directory))
    paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  ASSERT_EQ(paths.size(), 2u);
  EXPECT_NE(paths[0].find("/events.out.tfevents.1"), std::string::npos);
  const std::vector<std::string> records = records_of(read_file(paths[0]));
  ASSERT_EQ(records.size(), 3u);
  for (const std::string& record : records) EXPECT_EQ(record[0], '\x09');
  EXPECT_EQ(records[0].substr(9), "\x1a\x0d"s + "brain.Event:2");
  EXPECT_EQ(records[1].substr(9), "\x10\x07\x3a\x02\x08\x01"s);
  EXPECT_EQ(records[2].substr(9), "\x10\xac\x02\x2a\x11"s + "\x0a\x0a\x0a\x03"s + "a/b" +
                                      "\x15\0\0\xc0\x3f"s + "\x0a\x03\x0a\x01"s + "c");
  EXPECT_EQ(records_of(read_file(paths[1])).size(), 2u);
  EXPECT_THROW(EventFile(paths[0], 1), RunError);  // a file stands where the directory should
}

}  // namespace
}  // namespace quietformer
