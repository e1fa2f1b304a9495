#include "train/safetensors.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "tests/support/scratch.h"
#include "tests/support/tensors.h"

namespace quietformer {
namespace {

using test::contents_of;
using test::error_of;
using test::expect_contains;
using test::put;

std::string file_of(const std::string& json, const std::string& data) {
  const std::uint64_t length = json.size();
  std::string file(reinterpret_cast<const char*>(&length), 8);
  return file + json + data;
}

TEST(Safetensors, WritesAndReadsEveryType) {
  const test::ScratchFolder folder;
  const std::string path = folder / "m.safetensors";
  std::vector<OwnedTensor> owned;
  std::vector<NamedTensor> tensors;
  int bytes = 0;
  for (const DType dtype : {DType::u8, DType::f16, DType::f32, DType::bf16, DType::i64, DType::u16,
                            DType::i32, DType::f64})
    for (const Shape& shape : {Shape{3, 5}, Shape{}, Shape{0, 4}, Shape{7}}) {
      owned.emplace_back(dtype, shape);
      auto* data = static_cast<std::uint8_t*>(owned.back().view().data);
      for (std::int64_t i = 0; i < owned.back().view().bytes(); ++i)
        data[i] = static_cast<std::uint8_t>(++bytes * 29);
    }
  for (std::size_t i = 0; i < owned.size(); ++i)
    tensors.push_back({"t\"\xc3\xbc." + std::to_string(i), owned[i]});
  const std::map<std::string, std::string> metadata{{"format", "pt"}, {"note", "a\nb"}};
  write_safetensors(path, tensors, metadata);
  EXPECT_EQ(folder.count(), 1u);

  const SafetensorsReader file(path);
  EXPECT_EQ(file.metadata(), metadata);
  ASSERT_EQ(file.entries().size(), tensors.size());
  for (const NamedTensor& want : tensors) {
    const SafetensorsEntry& entry = file.require(want.name);
    EXPECT_EQ(file.dtype(entry), want.tensor.dtype);
    EXPECT_TRUE(file.shape(entry) == want.tensor.shape);
    const auto address = reinterpret_cast<std::uintptr_t>(entry.bytes.data());
    EXPECT_EQ(address % std::uintptr_t(size_of(want.tensor.dtype)), 0u) << "not aligned";
    const OwnedTensor read(want.tensor.dtype, want.tensor.shape);
    file.read(entry, read);
    EXPECT_TRUE(test::same_bits(read, want.tensor));
  }
  EXPECT_EQ(file.find("x"), nullptr);
  EXPECT_EQ(error_of([&] { file.require("x"); }), path + ": tensor x: missing");

  write_safetensors(path, std::span<const NamedTensor>(), {});
  EXPECT_EQ(contents_of(path), std::string("\x08\0\0\0\0\0\0\0{}      ", 16));
  EXPECT_TRUE(SafetensorsReader(path).entries().empty());
}

TEST(Safetensors, WriterRefusesNamesThatCannotBeRead) {
  const test::ScratchFolder folder;
  const OwnedTensor t(DType::f32, {1});
  const auto message = [&](std::vector<NamedTensor> tensors) {
    return error_of([&] { write_safetensors(folder / "m", tensors, {}); });
  };
  EXPECT_EQ(message({{"a", t}, {"a", t}}), folder / "m: tensor a: name given twice or reserved");
  expect_contains(message({{"__metadata__", t}}), "reserved");
  expect_contains(message({{"\xff", t}}), "is not UTF-8");
  EXPECT_EQ(folder.count(), 0u);
  const test::FileSizeLimit limit(8);
  EXPECT_EQ(error_of<RunError>([&] {
              write_safetensors(folder / "m", std::span<const NamedTensor>(), {{"a", "b"}});
            }),
            folder / "m: cannot write: File too large");
  EXPECT_EQ(folder.count(), 0u);
}

TEST(Safetensors, ReadsIntoFloatTypesWhateverTheAlignment) {
  const test::ScratchFolder folder;
  const std::string path = folder / "m";
  // The header's length is odd, so nothing is aligned.
  std::string data;
  const auto add = [&](auto value) { data.append(reinterpret_cast<char*>(&value), sizeof value); };
  add(std::uint8_t{1}), add(0.1f), add(0.1), add(std::uint16_t{0x3C01}), add(std::uint16_t{0x3F81});
  add(std::int64_t{5});
  put(path, file_of(R"({"b":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]},)"
                    R"("s":{"dtype":"F32","shape":[1],"data_offsets":[1,5]},)"
                    R"("d":{"dtype":"F64","shape":[],"data_offsets":[5,13]},)"
                    R"("h":{"dtype":"F16","shape":[1,1],"data_offsets":[13,15]},)"
                    R"("n":{"dtype":"BF16","shape":[1],"data_offsets":[15,17]},)"
                    R"("i":{"dtype":"I64","shape":[1],"data_offsets":[17,25]},)"
                    R"("u":{"dtype":"U32","shape":[0],"data_offsets":[25,25]}} )",
                    data));
  const SafetensorsReader file(path);
  const auto read = [&](const char* name, DType dtype) {
    const SafetensorsEntry& entry = file.require(name);
    const OwnedTensor out(dtype, file.shape(entry));
    file.read(entry, out);
    return test::get(out, 0);
  };
  EXPECT_EQ(read("b", DType::u8), 1);
  EXPECT_EQ(read("s", DType::f32), double(0.1f));
  EXPECT_EQ(read("s", DType::f64), double(0.1f));
  EXPECT_EQ(read("d", DType::f64), 0.1);
  EXPECT_EQ(read("d", DType::f32), double(0.1f));
  EXPECT_EQ(read("h", DType::f32), 1 + 0x1p-10);
  EXPECT_EQ(read("h", DType::f64), 1 + 0x1p-10);
  EXPECT_EQ(read("n", DType::f32), 1 + 0x1p-7);
  EXPECT_EQ(read("i", DType::i64), 5);
  EXPECT_EQ(error_of([&] { read("i", DType::f32); }),
            path + ": tensor i: found dtype I64, expected f32");
  EXPECT_EQ(error_of([&] { read("s", DType::i32); }),
            path + ": tensor s: found dtype F32, expected i32");
  EXPECT_EQ(error_of([&] { read("u", DType::i32); }),
            path + ": tensor u: dtype U32 is not supported");
  const OwnedTensor wrong(DType::f32, {2});
  EXPECT_EQ(error_of([&] { file.read(file.require("s"), wrong); }),
            path + ": tensor s: found shape (1), expected (2)");
}

struct BadFile {
  const char* json;
  std::size_t data_bytes;
  const char* message;
};

TEST(Safetensors, EachViolationIsOneErrorNamingTheTensor) {
  const BadFile files[] = {
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 7,
       "tensor a: data_offsets [0, 8] do not lie in the 7 bytes of data"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 9,
       "9 bytes of data, tensors cover 8"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8,
       "tensor a: data_offsets [8, 0] do not lie in the 8 bytes of data"},
      {R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8,
       "tensor a: shape (3) of F32 does not fit data_offsets [0, 8]"},
      {R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}})", 0,
       "tensor a: shape (4611686018427387904, 4) of F32 does not fit data_offsets [0, 0]"},
      {R"({"a":{"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,0]}})", 0,
       "tensor a: shape: 18446744073709551615 is too large"},
      {R"({"a":{"dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,0]}})", 0,
       "tensor a: shape: a number that is not an unsigned 64-bit integer, expected a list of "
       "unsigned integers"},
      {R"({"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,0]}})", 0,
       "tensor a: shape: a negative number, expected a list of unsigned integers"},
      {R"({"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}})", 1,
       "tensor a: shape: a number that is not an unsigned 64-bit integer, expected a list of "
       "unsigned integers"},
      {R"({"a":{"dtype":"Q8","shape":[1],"data_offsets":[0,1]}})", 1, "tensor a: unknown dtype Q8"},
      {R"({"a":{"dtype":8,"shape":[1],"data_offsets":[0,1]}})", 1,
       "tensor a: dtype: a number, expected text"},
      {R"({"a":{"dtype":["U8"],"shape":[1],"data_offsets":[0,1]}})", 1,
       "tensor a: dtype: a list, expected text"},
      {R"({"a":{"dtype":"U8","shape":1,"data_offsets":[0,1]}})", 1,
       "tensor a: shape: a number, expected a list of unsigned integers"},
      {R"({"a":{"dtype":"U8","shape":[[1]],"data_offsets":[0,1]}})", 1,
       "tensor a: shape: a list, expected a list of unsigned integers"},
      {R"({"a":{"dtype":"U8","shape":[{}],"data_offsets":[0,1]}})", 1,
       "tensor a: shape: an object, expected a list of unsigned integers"},
      {R"({"a":{"dtype":"U8","shape":["1"],"data_offsets":[0,1]}})", 1,
       "tensor a: shape: text, expected a list of unsigned integers"},
      {R"({"a":{"dtype":"U8","shape":null,"data_offsets":[0,1]}})", 1,
       "tensor a: shape: null, expected a list of unsigned integers"},
      {R"({"a":{"dtype":"U8","shape":[true],"data_offsets":[0,1]}})", 1,
       "tensor a: shape: true or false, expected a list of unsigned integers"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0]}})", 1,
       "tensor a: data_offsets: 1 numbers, expected 2"},
      {R"({"a":{"dtype":"U8","shape":[1]}})", 1, "tensor a: data_offsets is missing"},
      {R"({"a":{"shape":[1],"data_offsets":[0,1]}})", 1, "tensor a: dtype is missing"},
      {R"({"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1,
       "tensor a: dtype given twice"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1}})", 1,
       "tensor a: unknown field x"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
       R"("a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
       2, "tensor a: given twice"},
      {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
       R"("b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
       3, "tensor b: begins at 1, expected 2: tensors overlap"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
       R"("b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})",
       3, "tensor b: begins at 2, expected 1: tensors leave a hole"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})", 2,
       "tensor a: begins at 1, expected 0: tensors leave a hole"},
      {R"({"a":[1]})", 0, "tensor a: a list, expected an object with dtype, shape, data_offsets"},
      {R"({"a":1})", 0, "tensor a: a number, expected an object with dtype, shape, data_offsets"},
      {R"({"__metadata__":{"a":1}})", 0, "__metadata__: a number, expected text"},
      {R"({"__metadata__":{"a":{}}})", 0, "__metadata__: an object, expected text"},
      {R"({"__metadata__":{"a":["x"]}})", 0, "__metadata__: a list, expected text"},
      {R"({"__metadata__":{"a":"x","a":"x"}})", 0, "tensor __metadata__: key given twice"},
      {R"({"__metadata__":{},"__metadata__":{}})", 0, "tensor __metadata__: given twice"},
      {R"( {})", 0, "not a safetensors file: its header does not begin with '{'"},
      {R"([])", 0, "not a safetensors file: its header does not begin with '{'"},
      {R"({"a")", 0, "safetensors header is not JSON at byte 5"},
      {R"({} x)", 0, "safetensors header is not JSON at byte 4"},
      {"{\"\xff\":1}", 0, "safetensors header is not JSON at byte 3"},
  };
  const test::ScratchFolder folder;
  const std::string path = folder / "m";
  for (const BadFile& bad : files) {
    put(path, file_of(bad.json, std::string(bad.data_bytes, 'x')));
    EXPECT_EQ(error_of([&] { SafetensorsReader reader(path); }), path + ": " + bad.message)
        << bad.json;
  }
}

TEST(Safetensors, RefusesImpossibleHeaderLengths) {
  const test::ScratchFolder folder;
  const std::string path = folder / "m";
  const auto message = [&](std::string_view bytes) {
    put(path, bytes);
    return error_of([&] { SafetensorsReader reader(path); });
  };
  EXPECT_EQ(message(""), path + ": 0 bytes, too short for a safetensors file");
  EXPECT_EQ(message("1234567"), path + ": 7 bytes, too short for a safetensors file");
  EXPECT_EQ(message(std::string("\x03\0\0\0\0\0\0\0{}", 10)),
            path + ": truncated safetensors file: header of 3 bytes, found 2 after its length");
  EXPECT_EQ(message(std::string(8, '\xff')),
            path +
                ": not a safetensors file: header of 18446744073709551615 bytes, expected at "
                "most 100000000");
  EXPECT_EQ(message(std::string(8, '\0')),
            path + ": not a safetensors file: its header does not begin with '{'");
  EXPECT_EQ(error_of([&] { SafetensorsReader reader(folder.path()); }),
            folder.path() + ": is a directory, expected a file");
}

TEST(Safetensors, ShowsNamesFromTheFileOnOneLine) {
  const test::ScratchFolder folder;
  const std::string path = folder / "m";
  put(path, file_of(R"({"a\nb\u001b[31m":1})", ""));
  expect_contains(error_of([&] { SafetensorsReader reader(path); }), "tensor a?b?[31m: a number");
}

}  // namespace
}  // namespace quietformer
