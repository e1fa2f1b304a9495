#include "core/file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <array>

#include "tests/support/scratch.h"

namespace quietformer {
namespace {

namespace fs = std::filesystem;
using test::contents_of;
using test::error_of;
using test::expect_contains;
using test::put;

TEST(ReadFile, GivesAllBytesAndRefusesWhatIsNoFile) {
  const test::ScratchFolder folder;
  const std::string text("a\0b\n\xff", 5);
  put(folder / "a", text);
  put(folder / "empty", "");
  EXPECT_EQ(read_file(folder / "a"), text);
  EXPECT_EQ(read_file(folder / "a", 5), text);
  EXPECT_EQ(read_file(folder / "empty"), "");
  EXPECT_EQ(error_of([&] { read_file(folder / "a", 4); }),
            folder / "a: longer than the 4 bytes expected at most");
  EXPECT_EQ(error_of([&] { read_file(folder / "no"); }),
            folder / "no: cannot open: No such file or directory");
  EXPECT_EQ(error_of([&] { read_file(folder.path()); }),
            folder.path() + ": is a directory, expected a file");
}

TEST(MappedFile, ShowsTheFileAndRefusesWhatIsNoRegularFile) {
  const test::ScratchFolder folder;
  put(folder / "a", "quiet");
  put(folder / "empty", "");
  MappedFile file(folder / "a");
  EXPECT_EQ(file.bytes(), "quiet");
  EXPECT_EQ(MappedFile(folder / "empty").bytes(), "");
  write_file_atomically(folder / "a", "louder");  // another inode: the mapping stays
  const MappedFile moved = std::move(file);
  EXPECT_EQ(moved.bytes(), "quiet");
  EXPECT_EQ(moved.path(), folder / "a");
  file = MappedFile(folder / "a");
  EXPECT_EQ(file.bytes(), "louder");

  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  expect_contains(error_of([&] { MappedFile(folder / "pipe"); }), "is a pipe or device");
  expect_contains(error_of([&] { MappedFile(folder.path()); }), "is a directory");
  expect_contains(error_of([&] { MappedFile(folder / "no"); }), "No such file");
}

TEST(WriteFileAtomically, ReplacesAndLeavesNothingElse) {
  const test::ScratchFolder folder;
  const std::array<std::string_view, 3> pieces{"one ", "", "two"};
  write_file_atomically(folder / "a", pieces);
  EXPECT_EQ(contents_of(folder / "a"), "one two");
  write_file_atomically(folder / "a", "");
  EXPECT_EQ(contents_of(folder / "a"), "");
  EXPECT_EQ(folder.count(), 1u);
}

TEST(WriteFileAtomically, MakesPiecesWhileItWrites) {
  const test::ScratchFolder folder;
  write_file_atomically(folder / "a", [](FileWriter& file) {
    file.write("....");
    for (const char* piece : {"two", "three"}) file.write(piece);
    file.rewrite(0, "one-");
  });
  EXPECT_EQ(contents_of(folder / "a"), "one-twothree");
  const auto give_up = [](FileWriter& file) {
    file.write("half");
    throw InputError("enough");
  };
  EXPECT_EQ(error_of([&] { write_file_atomically(folder / "a", give_up); }), "enough");
  EXPECT_EQ(contents_of(folder / "a"), "one-twothree");
  EXPECT_EQ(folder.count(), 1u);
}

TEST(WriteFileAtomically, FollowsLinksAndSparesDevices) {
  const test::ScratchFolder folder;
  fs::create_directory(folder / "sub");
  put(folder / "sub/target", "old");
  fs::create_symlink("sub/target", folder / "link");
  write_file_atomically(folder / "link", "new");
  EXPECT_TRUE(fs::is_symlink(folder / "link"));
  EXPECT_EQ(contents_of(folder / "sub/target"), "new");

  fs::create_symlink("/dev/null", folder / "device");
  EXPECT_EQ(error_of<RunError>([&] { write_file_atomically(folder / "device", "x"); }),
            "/dev/null: cannot write: not a regular file");
  EXPECT_TRUE(fs::is_character_file("/dev/null"));
  expect_contains(error_of<RunError>([&] { write_file_atomically(folder / "sub", "x"); }),
                  "sub: cannot write: is a directory");
  expect_contains(error_of<RunError>([&] { write_file_atomically(folder / "no/a", "x"); }),
                  "no/a: cannot write: No such file or directory");
}

TEST(WriteFileAtomically, AFullDiskLeavesTheOldContentsAndNoTemporary) {
  const test::ScratchFolder folder;
  put(folder / "a", "old");
  const std::string large(100'000, 'x');
  std::string message;
  {
    const test::FileSizeLimit limit(50'000);
    message = error_of<RunError>([&] { write_file_atomically(folder / "a", large); });
  }
  EXPECT_EQ(message, folder / "a: cannot write: File too large");
  EXPECT_EQ(contents_of(folder / "a"), "old");
  EXPECT_EQ(folder.count(), 1u);
}

TEST(RemoveStaleTemporaries, SparesOthersAndThoseBeingWritten) {
  const test::ScratchFolder folder;
  for (const char* name :
       {".a.tmp-1", ".b.h5.tmp-4194304", "a", ".a", ".a.tmp-", ".a.tmp-1x", "a.tmp-1", ".tmp-1"})
    put(folder / name, "x");
  fs::create_directory(folder / ".d.tmp-1");
  // A writer at work: another process holds the lock.
  put(folder / ".held.tmp-7", "x");
  std::array<int, 2> ready{}, done{};
  ASSERT_EQ(::pipe(ready.data()), 0);
  ASSERT_EQ(::pipe(done.data()), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const int fd = ::open((folder / ".held.tmp-7").c_str(), O_WRONLY);
    char byte = ::flock(fd, LOCK_EX) == 0 ? 'y' : 'n';
    if (::write(ready[1], &byte, 1) != 1 || ::read(done[0], &byte, 1) != 1) ::_exit(1);
    ::_exit(0);
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  EXPECT_EQ(byte, 'y');
  EXPECT_EQ(remove_stale_temporaries(folder.path()), 2);
  EXPECT_EQ(folder.count(), 8u);
  ASSERT_EQ(::write(done[1], &byte, 1), 1);
  ::waitpid(child, nullptr, 0);
  EXPECT_EQ(remove_stale_temporaries(folder.path()), 1);
  EXPECT_EQ(remove_stale_temporaries(folder / "absent"), 0);
}

// A process that rewrites a file for ever is killed at many moments: the file is one of the two
// versions, whole, and what else it left can be cleaned away.
TEST(WriteFileAtomically, SurvivesKillsAtAnyMoment) {
  const test::ScratchFolder folder;
  const std::array<std::string, 2> versions{std::string(300'000, 'a'), std::string(200'000, 'b')};
  put(folder / "a", versions[0]);
  int stale = 0;
  for (unsigned round = 0; round < 60 || (stale == 0 && round < 2000); ++round) {
    const pid_t child = ::fork();
    if (child == 0) {
      for (std::size_t i = 0;; ++i) write_file_atomically(folder / "a", versions[i % 2]);
    }
    ::usleep(300 + round * 397 % 5000);
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    const std::string left = contents_of(folder / "a");
    ASSERT_TRUE(left == versions[0] || left == versions[1]) << left.size() << " bytes";
    stale += remove_stale_temporaries(folder.path());
    ASSERT_EQ(folder.count(), 1u);
  }
  EXPECT_GT(stale, 0);  // some kill did hit a write
}

}  // namespace
}  // namespace quietformer
