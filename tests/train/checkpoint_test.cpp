#include "train/checkpoint.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <thread>

#include "core/file.h"
#include "core/log.h"
#include "core/sealed_file.h"
#include "tests/support/scratch.h"
#include "tests/support/tensors.h"
#include "train/checkpoint_directory.h"

namespace quietformer {
namespace {

using test::contents_of;
using test::error_of;
using test::expect_contains;
using test::put;

// Owns what a Checkpoint points to.
struct Sample {
  OwnedTensor weight = test::normal(DType::f32, {3, 5}, 1);
  OwnedTensor bias = test::normal(DType::f64, {5}, 2);
  OwnedTensor counts = OwnedTensor(DType::i64, {2});
  OwnedTensor scalar = test::from_values(DType::f32, {}, {0.5});
  Checkpoint checkpoint;

  explicit Sample(std::int64_t step = 1000) {
    counts.as<std::int64_t>()[0] = 7;
    counts.as<std::int64_t>()[1] = -9;
    checkpoint.text = {{"config", "name: demo\nmodel: {layers: 2}\n"}, {"empty", ""}};
    checkpoint.integers = {{"step", step}, {"low", std::numeric_limits<std::int64_t>::min()}};
    checkpoint.numbers = {{"loss", 1.0 / 3},
                          {"infinite", std::numeric_limits<double>::infinity()},
                          {"nothing", std::nan("")},
                          {"statistics/blocks.0.output/mean", -0.0}};
    checkpoint.tensors = {{"parameters/blocks.0.attention.qkv.weight", weight},
                          {"parameters/blocks.0.attention.qkv.bias", bias},
                          {"parameters/a", scalar},
                          {"optimizer/m/blocks.0.attention.qkv.weight", weight},
                          {"statistics/counts", counts}};
  }
};

TEST(Checkpoint, ComesBackBitForBit) {
  const test::ScratchFolder folder;
  const Sample sample;
  const std::string path = folder / "c.h5";
  write_checkpoint(path, sample.checkpoint);
  const CheckpointReader opened(path);
  CheckpointReader reader(path);
  reader = CheckpointReader(path);  // movable: what it read from moves along
  EXPECT_EQ(reader.path(), path);
  EXPECT_EQ(reader.texts(), sample.checkpoint.text);
  EXPECT_EQ(reader.integers(), sample.checkpoint.integers);
  EXPECT_EQ(reader.integer("step"), 1000);
  EXPECT_EQ(reader.numbers().size(), 4u);
  EXPECT_TRUE(std::isnan(reader.number("nothing")));
  EXPECT_TRUE(std::signbit(reader.number("statistics/blocks.0.output/mean")));
  EXPECT_EQ(reader.number("loss"), 1.0 / 3);
  EXPECT_EQ(reader.text("config"), sample.checkpoint.text.at("config"));

  ASSERT_EQ(reader.tensors().size(), sample.checkpoint.tensors.size());
  for (std::size_t i = 0; i < reader.tensors().size(); ++i) {
    const NamedTensor& want = sample.checkpoint.tensors[i];
    const TensorInfo& info = reader.tensors()[i];
    EXPECT_EQ(info.name, want.name);
    EXPECT_EQ(reader.find(want.name), &info);
    const OwnedTensor read(info.dtype, info.shape);
    reader.read(info.name, read);
    EXPECT_TRUE(test::same_bits(read, want.tensor)) << info.name;
  }
  EXPECT_EQ(reader.find("parameters/b"), nullptr);
}

TEST(Checkpoint, TensorsMayBeMadeWhileItIsWritten) {
  const test::ScratchFolder folder;
  const OwnedTensor large = test::normal(DType::f32, {1000, 700}, 3);  // several pieces
  const OwnedTensor small = test::normal(DType::f32, {3}, 4);
  Sample sample;
  int pieces = 0;
  const auto rows = [&](std::int64_t first, std::int64_t count, void* out) {
    std::memcpy(out, large.as<float>() + first * 700, std::size_t(count * 700 * 4));
    ++pieces;
  };
  sample.checkpoint.deferred = {{"parameters/large", DType::f32, {1000, 700}, {}, rows},
                                {"parameters/nothing", DType::f32, {0, 4}, {}},
                                {"parameters/small", DType::f32, {3}, [&](void* out) {
                                   std::memcpy(out, small.view().data, 12);
                                 }}};
  write_checkpoint(folder / "c.h5", sample.checkpoint);
  EXPECT_GT(pieces, 1);
  const CheckpointReader reader(folder / "c.h5");  // verifies the seal
  const OwnedTensor got(DType::f32, {1000, 700}), got_small(DType::f32, {3});
  reader.read("parameters/large", got);
  reader.read("parameters/small", got_small);
  EXPECT_TRUE(test::close(got, large, 0));
  EXPECT_TRUE(test::close(got_small, small, 0));
  EXPECT_EQ(reader.tensors().size(), sample.checkpoint.tensors.size() + 3);
}

TEST(Checkpoint, EqualContentsMakeEqualFiles) {
  const test::ScratchFolder folder;
  write_checkpoint(folder / "a", Sample().checkpoint);
  write_checkpoint(folder / "b", Sample().checkpoint);
  EXPECT_EQ(contents_of(folder / "a"), contents_of(folder / "b"));
  EXPECT_EQ(folder.count(), 2u);
}

TEST(Checkpoint, ErrorsNameFileAndTensor) {
  const test::ScratchFolder folder;
  const std::string path = folder / "c.h5";
  write_checkpoint(path, Sample().checkpoint);
  const CheckpointReader reader(path);
  const OwnedTensor small(DType::f32, {5, 3}), type(DType::f64, {3, 5});
  const std::string name = "parameters/blocks.0.attention.qkv.weight";
  EXPECT_EQ(error_of([&] { reader.read(name, small); }),
            path + ": tensor " + name + ": found f32 (3, 5), expected f32 (5, 3)");
  EXPECT_EQ(error_of([&] { reader.read(name, type); }),
            path + ": tensor " + name + ": found f32 (3, 5), expected f64 (3, 5)");
  EXPECT_EQ(error_of([&] { reader.read("parameters/x", small); }),
            path + ": tensor parameters/x: missing, expected f32 (5, 3)");
  EXPECT_EQ(error_of([&] { reader.integer("x"); }), path + ": integer x: missing");
  EXPECT_EQ(error_of([&] { reader.number("step"); }), path + ": number step: missing");
  EXPECT_EQ(error_of([&] { reader.text("x"); }), path + ": text x: missing");
}

TEST(Checkpoint, RefusesOtherFiles) {
  const test::ScratchFolder folder;
  put(folder / "noise", std::string(3000, 'n'));
  put(folder / "empty", "");
  EXPECT_EQ(error_of([&] { CheckpointReader(folder / "noise"); }),
            folder / "noise: not a quietformer checkpoint");
  EXPECT_EQ(error_of([&] { CheckpointReader(folder / "empty"); }),
            folder / "empty: 0 bytes, expected a quietformer checkpoint of at least 512");
  EXPECT_EQ(error_of([&] { CheckpointReader(folder.path()); }),
            folder.path() + ": is a directory, expected a file");
  EXPECT_EQ(error_of([&] { CheckpointReader(folder / "no"); }),
            folder / "no: cannot open: No such file or directory");
  // HDF5 without our seal, and sealed HDF5 that is not a checkpoint.
  Hdf5Writer plain("x");
  put(folder / "plain.h5", plain.finish().view());
  EXPECT_EQ(error_of([&] { CheckpointReader(folder / "plain.h5"); }),
            folder / "plain.h5: not a quietformer checkpoint");
  Hdf5Writer other("x", kSealBytes);
  other.text("/text/config", "x");
  Hdf5Image image = other.finish();
  seal(image.bytes(), {"quietformer checkpoint", 1});
  put(folder / "other.h5", image.view());
  EXPECT_EQ(error_of([&] { CheckpointReader(folder / "other.h5"); }),
            folder / "other.h5: /integers: not in the file");
  seal(image.bytes(), {"quietformer checkpoint", 2});
  put(folder / "newer.h5", image.view());
  EXPECT_EQ(error_of([&] { CheckpointReader(folder / "newer.h5"); }),
            folder / "newer.h5: quietformer checkpoint of version 2, expected version 1");
}

// Every single byte and every length: only the seal ever complains, HDF5 never sees the file.
TEST(Checkpoint, AnyChangedByteAndAnyTruncationIsRefusedByTheSeal) {
  const test::ScratchFolder folder;
  const std::string path = folder / "c.h5";
  write_checkpoint(path, Sample().checkpoint);
  const std::string whole = contents_of(path);
  ASSERT_GT(whole.size(), 2000u);
  const auto refused = [&] {
    const std::string message = error_of([&] { CheckpointReader reader(path); });
    expect_contains(message, path + ": ");
    expect_contains(message, "quietformer checkpoint");
    return message.find("HDF5") == std::string::npos;
  };
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  const auto set = [&](std::size_t at, char value) {
    file.seekp(static_cast<std::streamoff>(at));
    file.put(value).flush();
  };
  for (std::size_t i = 0; i < whole.size(); ++i) {
    set(i, static_cast<char>(whole[i] ^ (1 << i % 8)));
    ASSERT_TRUE(refused()) << "byte " << i;
    set(i, whole[i]);
  }
  EXPECT_NO_THROW(CheckpointReader reader(path));
  for (std::size_t length = whole.size(); length-- > 0;) {
    std::filesystem::resize_file(path, length);
    ASSERT_TRUE(refused()) << "length " << length;
  }
  put(path, whole + '\0');
  ASSERT_TRUE(refused());
}

TEST(Checkpoint, AFullDiskKeepsTheEarlierOne) {
  const test::ScratchFolder folder;
  const std::string path = folder / "c.h5";
  write_checkpoint(path, Sample(1).checkpoint);
  std::string message;
  {
    const test::FileSizeLimit limit(1000);
    message = error_of<RunError>([&] { write_checkpoint(path, Sample(2).checkpoint); });
  }
  EXPECT_EQ(message, path + ": cannot write: File too large");
  EXPECT_EQ(CheckpointReader(path).integer("step"), 1);
  EXPECT_EQ(folder.count(), 1u);
}

std::vector<std::string> heard;
void hear(const std::string& reason) {
  heard.push_back(reason);
}

TEST(CheckpointDirectory, ListsByStepAndIgnoresOtherNames) {
  const test::ScratchFolder folder;
  const CheckpointDirectory directory(folder / "checkpoints");
  EXPECT_TRUE(directory.steps().empty());
  EXPECT_FALSE(directory.newest_valid(hear));
  EXPECT_FALSE(directory.best(hear));
  EXPECT_EQ(CheckpointDirectory::file_name(1000), "step_00001000.h5");
  for (const std::int64_t step : {123456789, 20, 100})
    directory.write(step, Sample(step).checkpoint);
  for (const char* name : {"step_7.h5", "step_00000030.h5.bak", "step_-0000001.h5", "best",
                           ".step_00000040.h5.tmp-3", "step_99999999999999999999.h5"})
    put(folder / (std::string("checkpoints/") + name), "x");
  EXPECT_EQ(directory.steps(), (std::vector<std::int64_t>{20, 100, 123456789}));
  EXPECT_EQ(directory.newest_valid(hear)->integer("step"), 123456789);
  put(folder / "file", "x");
  expect_contains(error_of([&] { CheckpointDirectory(folder / "file").steps(); }),
                  "file: cannot list: Not a directory");
}

TEST(CheckpointDirectory, FallsBackToTheNewestValidOneAndSaysWhy) {
  const test::ScratchFolder folder;
  const CheckpointDirectory directory(folder.path());
  for (const std::int64_t step : {10, 20, 30, 40}) directory.write(step, Sample(step).checkpoint);
  std::filesystem::resize_file(directory.path_of(40), 700);
  put(directory.path_of(30), "");
  std::filesystem::create_directory(directory.path_of(50));
  heard.clear();
  const auto newest = directory.newest_valid(hear);
  ASSERT_TRUE(newest);
  EXPECT_EQ(newest->integer("step"), 20);
  EXPECT_EQ(newest->path(), directory.path_of(20));
  ASSERT_EQ(heard.size(), 3u);
  expect_contains(heard[0], "step_00000050.h5: is a directory");
  expect_contains(heard[1], "step_00000040.h5: truncated or damaged");
  expect_contains(heard[2], "step_00000030.h5: 0 bytes");
  for (const std::int64_t step : {10, 20}) put(directory.path_of(step), "");
  EXPECT_FALSE(directory.newest_valid(hear));
}

TEST(CheckpointDirectory, PruneKeepsTheLastOnesTheBestAndWhatIsLater) {
  const test::ScratchFolder folder;
  const CheckpointDirectory directory(folder.path());
  for (std::int64_t step = 1; step <= 8; ++step) put(directory.path_of(step), "x");
  using Steps = std::vector<std::int64_t>;
  directory.prune(7, 3, 2);
  EXPECT_EQ(directory.steps(), (Steps{2, 5, 6, 7, 8}));
  directory.prune(7, 3, 6);
  EXPECT_EQ(directory.steps(), (Steps{5, 6, 7, 8}));
  directory.prune(7, 10, std::nullopt);
  EXPECT_EQ(directory.steps(), (Steps{5, 6, 7, 8}));
  // The one just written stays even when refused later ones fill the directory.
  directory.prune(6, 1, std::nullopt);
  EXPECT_EQ(directory.steps(), (Steps{6, 7, 8}));
}

TEST(CheckpointDirectory, BestIsWhatTheNewestValidOneSays) {
  const test::ScratchFolder folder;
  const CheckpointDirectory directory(folder.path());
  const auto write = [&](std::int64_t step, std::int64_t best) {
    Sample sample(step);
    sample.checkpoint.integers[CheckpointDirectory::kBestStep] = best;
    directory.write(step, sample.checkpoint);
  };
  write(1, -1);
  EXPECT_FALSE(directory.best(hear));
  write(2, 2);
  write(3, 2);
  EXPECT_EQ(directory.best(hear), directory.path_of(2));
  write(4, 4);
  EXPECT_EQ(directory.best(hear), directory.path_of(4));
  std::filesystem::resize_file(directory.path_of(4), 600);
  EXPECT_EQ(directory.best(hear), directory.path_of(2));
  std::filesystem::remove(directory.path_of(2));
  EXPECT_FALSE(directory.best(hear));
}

// Killed at many moments while it writes and prunes: the directory always holds a valid newest
// checkpoint, none is ever refused, and the best one is there.
TEST(CheckpointDirectory, SurvivesKillsAtAnyMoment) {
  const test::ScratchFolder folder;
  const CheckpointDirectory directory(folder.path());
  const OwnedTensor large = test::normal(DType::f32, {64, 1024}, 3);
  const auto write = [&](std::int64_t step) {
    Sample sample(step);
    sample.checkpoint.tensors.push_back({"parameters/large", large});
    sample.checkpoint.integers[CheckpointDirectory::kBestStep] = step / 10 * 10;
    directory.write(step, sample.checkpoint);
    directory.prune(step, 2, step / 10 * 10);
  };
  // How long a write takes depends on the disk and on who else uses it: kills are spread over the
  // time of about two writes at first, and every third round waits for one to be finished before.
  const auto begin = std::chrono::steady_clock::now();
  for (std::int64_t step = 10; step <= 12; ++step) write(step);
  const auto window = std::chrono::duration_cast<std::chrono::microseconds>(
      (std::chrono::steady_clock::now() - begin) * 2 / 3);
  std::int64_t reached = 12;
  for (int round = 0; round < 42; ++round) {
    int finished[2];
    ASSERT_EQ(::pipe(finished), 0);
    const pid_t child = ::fork();
    if (child == 0) {
      for (std::int64_t step = reached + 1;; ++step) {
        write(step);
        if (::write(finished[1], "", 1) != 1) ::_exit(1);
      }
    }
    ::close(finished[1]);
    char byte;
    if (round % 3 == 0) {
      ASSERT_EQ(::read(finished[0], &byte, 1), 1);
    }
    std::this_thread::sleep_for(window * (round * 37 % 100) / 100);
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    ::close(finished[0]);
    remove_stale_temporaries(folder.path());
    heard.clear();
    const auto newest = directory.newest_valid(hear);
    ASSERT_TRUE(newest);
    ASSERT_TRUE(heard.empty()) << heard[0];
    ASSERT_GE(newest->integer("step"), reached);
    ASSERT_EQ(folder.count(), directory.steps().size());
    ASSERT_TRUE(directory.best(hear));
    reached = newest->integer("step");
    // A kill between writing and pruning leaves one too many; the next prune takes it.
    directory.prune(reached, 2, newest->integer(CheckpointDirectory::kBestStep));
    ASSERT_LE(directory.steps().size(), 3u);
  }
  EXPECT_GE(reached, 12 + 42 / 3);
}

}  // namespace
}  // namespace quietformer
