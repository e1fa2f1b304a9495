#include "core/hdf5.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "core/file.h"
#include "tests/support/scratch.h"
#include "tests/support/tensors.h"

namespace quietformer {
namespace {

using Kind = Hdf5Entry::Kind;
using test::error_of;
using test::expect_contains;

constexpr std::array kTypes{DType::f64, DType::f32, DType::bf16, DType::f16,
                            DType::i64, DType::i32, DType::u16,  DType::u8};

// Any bit pattern, NaNs included.
OwnedTensor noise(DType dtype, const Shape& shape, std::uint32_t seed) {
  OwnedTensor tensor(dtype, shape);
  auto* bytes = static_cast<std::uint8_t*>(tensor.view().data);
  for (std::int64_t i = 0; i < tensor.view().bytes(); ++i)
    bytes[i] = static_cast<std::uint8_t>(philox({{seed, 0}}, std::uint32_t(i), 0, 0, 0).word[0]);
  return tensor;
}

TEST(Hdf5, TensorsOfEveryTypeAndRankComeBackBitForBit) {
  const std::vector<Shape> shapes{{}, {3}, {2, 5}, {1, 2, 3, 4, 5}, {0}, {4, 0, 2}};
  Hdf5Writer file("test");
  std::vector<std::pair<std::string, OwnedTensor>> made;
  for (const DType dtype : kTypes)
    for (std::size_t s = 0; s < shapes.size(); ++s) {
      const std::string path = "/" + std::string(name_of(dtype)) + "/deep.er/" + std::to_string(s);
      made.emplace_back(path, noise(dtype, shapes[s], std::uint32_t(made.size())));
      file.tensor(path, made.back().second);
    }
  const Hdf5Image image = file.finish();
  const Hdf5Reader reader("test", image.view());
  for (const auto& [path, tensor] : made) {
    const OwnedTensor back = reader.read(path);
    EXPECT_TRUE(test::same_bits(back, tensor)) << path;
    EXPECT_EQ(reader.entry(path).dtype, tensor.view().dtype);
  }
}

TEST(Hdf5, GroupsKeepTheirOrderTextsAndAttributes) {
  Hdf5Writer file("test", 1024);
  const std::string text = "layers: 3\n# \xc3\xbc\n";
  file.group("/z/y/x");
  file.text("/z/config", text);
  file.text("/z/empty", "");
  for (int i = 0; i < 30; ++i)
    file.tensor("/z/t" + std::to_string(29 - i), OwnedTensor(DType::f32, {1}));
  const std::map<std::string, Hdf5Attribute> attributes{
      {"text", std::string("caf\xc3\xa9")},
      {"empty", std::string()},
      {"integer", std::numeric_limits<std::int64_t>::min()},
      {"number", -0.1},
      {"texts", std::vector<std::string>{"a", "", "b c"}},
      {"integers", std::vector<std::int64_t>{1, -2}},
      {"numbers", std::vector<double>{}},
      {"long", std::string(200'000, 'x')},
  };
  for (const auto& [name, value] : attributes) {
    file.attribute("/", name, value);
    file.attribute("/z", name, value);
    file.attribute("/z/t3", name, value);
  }
  const Hdf5Image image = file.finish();
  EXPECT_EQ(image.view().substr(0, 1024), std::string(1024, '\0'));
  const Hdf5Reader reader("test", image.view());
  const auto entries = reader.list("/z");
  ASSERT_EQ(entries.size(), 33u);
  EXPECT_EQ(entries[0].name, "y");
  EXPECT_EQ(entries[0].kind, Kind::group);
  EXPECT_EQ(entries[1].kind, Kind::text);
  EXPECT_EQ(entries[3].name, "t29");
  EXPECT_EQ(entries[32].name, "t0");
  EXPECT_EQ(entries[32].kind, Kind::tensor);
  EXPECT_EQ(reader.text("/z/config"), text);
  EXPECT_EQ(reader.text("/z/empty"), "");
  for (const char* path : {"/", "/z", "/z/t3"}) EXPECT_EQ(reader.attributes(path), attributes);
  EXPECT_TRUE(reader.contains("/z/y/x"));
  EXPECT_TRUE(reader.contains("/"));
  EXPECT_FALSE(reader.contains("/z/y/w"));
  EXPECT_FALSE(reader.contains("/no/such"));
  EXPECT_FALSE(reader.contains("/z/config/x"));
}

TEST(Hdf5, EqualContentsAreEqualBytesAndFilesOpenByPath) {
  const auto build = [] {
    Hdf5Writer file("test");
    file.text("/a", "b");
    file.attribute("/", "list", std::vector<std::string>{"x", "y"});
    file.tensor("/t", test::normal(DType::f32, {100, 100}, 1));
    return file.finish();
  };
  const Hdf5Image one = build();
  const std::string clutter(1 << 20, 'x');
  const Hdf5Image two = build();
  EXPECT_EQ(one.view(), two.view());

  const test::ScratchFolder folder;
  write_file_atomically(folder / "a.h5", one.view());
  const Hdf5Reader moved = Hdf5Reader(folder / "a.h5");
  EXPECT_TRUE(test::same_bits(moved.read("/t"), test::normal(DType::f32, {100, 100}, 1)));
  EXPECT_EQ(folder.count(), 1u);
}

TEST(Hdf5, ErrorsNameFileAndObject) {
  Hdf5Writer file("test");
  file.text("/a", "b");
  file.tensor("/g/t", OwnedTensor(DType::f32, {2, 3}));
  const Hdf5Image image = file.finish();
  const Hdf5Reader reader("f.h5", image.view());
  EXPECT_EQ(error_of([&] { reader.read("/g/x"); }), "f.h5: /g/x: not in the file");
  EXPECT_EQ(error_of([&] { reader.read("/g"); }), "f.h5: /g: not a tensor of a supported type");
  EXPECT_EQ(error_of([&] { reader.read("/a"); }), "f.h5: /a: not a tensor of a supported type");
  EXPECT_EQ(error_of([&] { reader.text("/g/t"); }), "f.h5: /g/t: not a text");
  EXPECT_EQ(error_of([&] { reader.text("/g"); }), "f.h5: /g: is a group, expected a dataset");
  EXPECT_EQ(error_of([&] { reader.list("/a"); }), "f.h5: /a: not a group");
  const OwnedTensor shape(DType::f32, {3, 2}), type(DType::f64, {2, 3});
  EXPECT_EQ(error_of([&] { reader.read("/g/t", shape); }),
            "f.h5: /g/t: found f32 (2, 3), expected f32 (3, 2)");
  EXPECT_EQ(error_of([&] { reader.read("/g/t", type); }),
            "f.h5: /g/t: found f32 (2, 3), expected f64 (2, 3)");

  EXPECT_EQ(error_of([] { Hdf5Reader("f.h5", std::string_view()); }),
            "f.h5: empty, expected an HDF5 file");
  const std::string junk(5000, 'j');
  expect_contains(error_of([&] { Hdf5Reader("f.h5", junk); }),
                  "f.h5: cannot be opened as HDF5: HDF5 says: ");
  expect_contains(
      error_of([&] { Hdf5Reader("f.h5", image.view().substr(0, image.view().size() - 9)); }),
      "truncated file");
}

TEST(Hdf5, NothingIsPrintedAndNoFileIsMade) {
  const test::ScratchFolder folder;
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(folder.path());
  testing::internal::CaptureStderr();
  testing::internal::CaptureStdout();
  {
    Hdf5Writer file("name.h5");
    file.tensor("/t", OwnedTensor(DType::f32, {2}));
    EXPECT_THROW(file.tensor("/t", OwnedTensor(DType::f32, {2})), RunError);
    EXPECT_THROW(file.attribute("/no", "a", 1.0), RunError);
    const Hdf5Image image = file.finish();
    EXPECT_THROW(Hdf5Reader("x", image.view().substr(0, 100)), InputError);
    EXPECT_THROW(Hdf5Reader("x", image.view()).read("/u"), InputError);
    const Hdf5Writer unfinished("other.h5");
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "");
  std::filesystem::current_path(before);
  EXPECT_EQ(folder.count(), 0u);
}

}  // namespace
}  // namespace quietformer
