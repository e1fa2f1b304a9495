// Maps, shards, export: what goes through them comes out again.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "core/log.h"
#include "tests/support/scratch.h"
#include "tests/support/tensors.h"
#include "tests/train/hf_models.h"
#include "train/convert.h"
#include "train/hf/export.h"
#include "train/hf/import.h"
#include "train/hf/map_file.h"

namespace quietformer {
namespace {

namespace fs = std::filesystem;
using test::architecture_of;
using test::contents_of;
using test::error_of;
using test::expect_contains;
using test::fixture;
using test::logits_of;
using test::model_folders;
using test::open;
using test::put;

using TensorBytes = std::map<std::string, std::string>;  // type and bytes by name

TensorBytes tensors_in(const std::string& folder) {
  TensorBytes tensors;
  const TensorFiles files(folder);
  for (const FileTensor& tensor : files.tensors())
    tensors[tensor.entry->name] = tensor.entry->dtype + ":" + std::string(tensor.entry->bytes);
  return tensors;
}

// Random bits in a 16-bit type, NaNs and all, in the layout of a fixture.
void write_in_16_bits(const std::string& folder, const std::string& like, DType dtype) {
  fs::create_directories(folder);
  fs::copy_file(like + "/config.json", folder + "/config.json");
  std::vector<OwnedTensor> owned;
  std::vector<NamedTensor> tensors;
  std::uint32_t state = 1;
  const TensorFiles files(like);
  for (const FileTensor& tensor : files.tensors()) {
    owned.emplace_back(dtype, tensor.file->shape(*tensor.entry));
    const auto count = owned.back().view().count();
    for (std::int64_t i = 0; i < count; ++i)
      static_cast<std::uint16_t*>(owned.back().view().data)[i] =
          std::uint16_t((state = state * 1664525u + 1013904223u) >> 16);
    tensors.push_back({tensor.entry->name, owned.back()});
  }
  write_safetensors(folder + "/model.safetensors", tensors, {});
}

TEST(TensorMap, PacksEveryOrderOfQueriesKeysAndValues) {
  ModelConfig model;
  model.heads = 4, model.kv_heads = 2, model.dim = 16;  // head dim 4
  const std::int64_t rows = (4 + 2 + 2) * 4, columns = 16;
  for (const Matrix matrix : {Matrix::out_in, Matrix::in_out})
    for (const QkvOrder order : {QkvOrder::q_k_v, QkvOrder::by_kv_head})
      for (const RotaryPairs pairs : {RotaryPairs::halves, RotaryPairs::adjacent}) {
        TensorMap map;
        map.rules = {{"blocks.*.attention.qkv.weight", {"h.*.qkv"}, matrix, {}, order, pairs}};
        const auto copies =
            plan_parameter(map, "blocks.11.attention.qkv.weight", {rows, columns}, model);
        ASSERT_EQ(copies.size(), 1u);
        EXPECT_EQ(copies[0].theirs, "h.11.qkv");
        const bool turned = matrix == Matrix::in_out;
        EXPECT_TRUE(copies[0].their_shape() ==
                    (turned ? Shape{columns, rows} : Shape{rows, columns}));
        const OwnedTensor theirs = test::normal(DType::f32, copies[0].their_shape(), 1);
        const OwnedTensor ours(DType::f32, {rows, columns});
        copy_to_ours({}, copies[0], theirs.view().data, ours.view().data, 4);
        for (std::int64_t head = 0; head < 8; ++head)
          for (std::int64_t d = 0; d < 4; ++d) {
            // Their groups: q0 q1 k0 v0 | q2 q3 k1 v1.
            static constexpr int kPlace[8] = {0, 1, 4, 5, 2, 6, 3, 7};
            const std::int64_t block = order == QkvOrder::by_kv_head ? kPlace[head] : head;
            static constexpr int kAdjacent[4] = {0, 2, 1, 3};
            const bool rotated = pairs == RotaryPairs::adjacent && head < 6;
            const std::int64_t row = block * 4 + (rotated ? kAdjacent[d] : d);
            for (std::int64_t c = 0; c < columns; ++c)
              ASSERT_EQ(ours.as<float>()[(head * 4 + d) * columns + c],
                        theirs.as<float>()[turned ? c * rows + row : row * columns + c]);
          }
        const OwnedTensor back(DType::f32, copies[0].their_shape());
        copy_to_theirs({}, copies[0], ours.view().data, back.view().data, 4);
        EXPECT_EQ(
            std::memcmp(back.view().data, theirs.view().data, std::size_t(rows * columns * 4)), 0);
      }
}

TEST(TensorMap, PiecesAndParts) {
  ModelConfig model;
  model.heads = 4, model.kv_heads = 2, model.dim = 16;
  TensorMap map;
  map.rules = {{"blocks.*.attention.qkv.bias", {"h.*.q", "h.*.k", "h.*.v"}},
               {"blocks.*.mlp.gate.weight", {"h.*.gate_up"}, Matrix::out_in, {0, 2}},
               {"blocks.*.mlp.up.weight", {"h.*.gate_up"}, Matrix::out_in, {1, 2}},
               {"odd", {"a", "b"}}};
  const auto qkv = plan_parameter(map, "blocks.0.attention.qkv.bias", {32}, model);
  ASSERT_EQ(qkv.size(), 3u);
  EXPECT_EQ(qkv[1].theirs, "h.0.k");
  EXPECT_EQ(qkv[1].our_row, 16);
  EXPECT_EQ(qkv[1].rows, 8);
  EXPECT_TRUE(qkv[1].their_shape() == Shape{8});
  const auto up = plan_parameter(map, "blocks.3.mlp.up.weight", {6, 5}, model);
  ASSERT_EQ(up.size(), 1u);
  EXPECT_EQ(up[0].their_row, 6);
  EXPECT_TRUE(up[0].their_shape() == (Shape{12, 5}));
  EXPECT_TRUE(plan_parameter(map, "head.weight", {4, 4}, model).empty());
  expect_contains(error_of([&] {
                    plan_parameter(map, "odd", {5, 2}, model);
                  }),
                  "odd: 5 rows are not divisible among 2 tensors");
}

TEST(Convert, HfToNativeToHfKeepsEveryByte) {
  for (const std::string& folder : model_folders())
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      SCOPED_TRACE(folder + " " + std::string(name_of(dtype)));
      const test::ScratchFolder scratch;
      std::string source = folder;
      if (dtype != DType::f32) write_in_16_bits(source = scratch / "source", folder, dtype);
      write_native({}, scratch / "model.h5", open(source));
      const ModelSource native = open_model(scratch / "model.h5");
      EXPECT_FALSE(native.trained_here);
      EXPECT_EQ(native.files.at("config.json"), contents_of(folder + "/config.json"));
      write_hf_directory({}, scratch / "back", native, architecture_of(native));
      EXPECT_TRUE(tensors_in(scratch / "back") == tensors_in(source));
      const ModelSource back = open_model(scratch / "back"), first = open_model(source);
      EXPECT_TRUE(back.config.model == first.config.model);
      EXPECT_TRUE(back.config.attention == first.config.attention);
    }
}

TEST(Convert, ShardsHoldTheSameAndEndWhereAsked) {
  const test::ScratchFolder scratch;
  const ModelSource model = open(fixture("bert-tiny"));
  write_hf_directory({}, scratch / "shards", model, architecture_of(model), {30'000});
  EXPECT_FALSE(fs::exists(scratch / "shards/model.safetensors"));
  EXPECT_TRUE(fs::exists(scratch / "shards/model-00001-of-00005.safetensors"));
  for (const auto& entry : fs::directory_iterator(scratch / "shards")) {
    if (!entry.path().string().ends_with(".safetensors")) continue;
    EXPECT_LT(entry.file_size(), 36'000u);  // with its header
  }
  EXPECT_TRUE(tensors_in(scratch / "shards") == tensors_in(fixture("bert-tiny")));
  EXPECT_EQ(scratch.count(), 1u);  // no temporaries
  expect_contains(
      error_of([&] { write_hf_directory({}, scratch / "shards", model, architecture_of(model)); }),
      "shards: exists, expected a new or empty directory");
}

class Shards : public testing::Test {
 protected:
  Shards() {
    fs::create_directories(scratch_ / "hub/snapshots/1");
    fs::create_directories(scratch_ / "hub/blobs");
    const OwnedTensor a(DType::f32, {2}), b(DType::f32, {3});
    const std::vector<NamedTensor> one{{"a", a}}, two{{"b", b}}, both{{"a", a}, {"b", b}};
    write_safetensors(folder() + "/one.safetensors", one, {});
    write_safetensors(folder() + "/two.safetensors", two, {});
    write_safetensors(scratch_ / "hub/blobs/abc", two, {});
    write_safetensors(scratch_ / "outside.safetensors", two, {});
    write_safetensors(folder() + "/both.safetensors", both, {});
  }
  std::string folder() const { return scratch_ / "hub/snapshots/1"; }
  std::string index() const { return folder() + "/model.safetensors.index.json"; }
  std::string refusal(const std::string& json) const {
    put(index(), json);
    return error_of([&] { TensorFiles files(folder()); });
  }
  std::string refusal_of_file(const std::string& file) const {
    return refusal(R"({"weight_map": {"a": "one.safetensors", "b": ")" + file + "\"}}");
  }
  test::ScratchFolder scratch_;
};

TEST_F(Shards, AreReadByTheirIndex) {
  put(index(), R"({"metadata": {"total_size": 20, "x": [1, {"y": null}]},
                   "weight_map": {"a": "one.safetensors", "b": "two.safetensors"}})");
  const TensorFiles files(folder());
  EXPECT_EQ(files.tensors().size(), 2u);
  EXPECT_EQ(files.bytes(), 20u);
  EXPECT_EQ(files.find("b")->file->path(), folder() + "/two.safetensors");
  EXPECT_EQ(files.find("c"), nullptr);
  // The links of the hub's cache lead to the blobs beside the snapshots.
  fs::create_symlink("../../blobs/abc", folder() + "/linked.safetensors");
  put(index(), R"({"weight_map": {"a": "one.safetensors", "b": "linked.safetensors"}})");
  EXPECT_EQ(TensorFiles(folder()).tensors().size(), 2u);
}

TEST_F(Shards, LieInTheDirectoryOfTheirIndex) {
  for (const std::string& file :
       {scratch_ / "outside.safetensors", std::string("../../../outside.safetensors"),
        std::string("./two.safetensors"), std::string("sub/two.safetensors"),
        std::string("..\\\\two.safetensors"), std::string(".safetensors"),
        std::string("two.safetensors\\u0000"), std::string("two.bin"), std::string("")}) {
    const std::string message = refusal_of_file(file);
    expect_contains(message, index() + ": tensor b: found file '");
    expect_contains(message, "expected a name ending in .safetensors, in the same directory");
  }
  fs::create_symlink(scratch_ / "outside.safetensors", folder() + "/link.safetensors");
  expect_contains(refusal_of_file("link.safetensors"), "link.safetensors: a link to ");
  fs::create_symlink("../../../outside.safetensors", folder() + "/relative.safetensors");
  expect_contains(refusal_of_file("relative.safetensors"), "expected a file in ");
}

TEST_F(Shards, HoldWhatTheIndexSays) {
  EXPECT_EQ(refusal("["), index() + ": expected a JSON object");
  EXPECT_EQ(refusal("3"), index() + ": expected a JSON object");
  expect_contains(refusal("{"), index() + ": not JSON: ");
  EXPECT_EQ(refusal("{}"), index() + ": weight_map: missing or empty");
  EXPECT_EQ(refusal(R"({"weight_map": ["a"]})"),
            index() + ": weight_map: found a list, expected an object");
  EXPECT_EQ(refusal(R"({"weight_map": {"a": 3}})"),
            index() + ": weight_map: tensor a: found a number, expected a file's name");
  expect_contains(refusal(R"({"weight_map": {"a": {"b": "c"}}})"), "tensor a: found an object");
  EXPECT_EQ(refusal(R"({"weight_map": {"a": "one.safetensors", "a": "one.safetensors"}})"),
            index() + ": tensor a: given twice");
  expect_contains(refusal_of_file("none.safetensors"), "none.safetensors: cannot open: ");
  EXPECT_EQ(
      refusal_of_file("one.safetensors"),
      folder() + "/one.safetensors: tensor b: missing, expected because " + index() + " says so");
  EXPECT_EQ(refusal_of_file("both.safetensors"),
            folder() + "/both.safetensors: tensor a: another shard has one, too");
}

TEST_F(Shards, HoldNothingElse) {
  put(index(), R"({"weight_map": {"b": "both.safetensors"}})");
  EXPECT_EQ(error_of([&] { TensorFiles files(folder()); }),
            folder() + "/both.safetensors: tensor a: not in " + index());
}

TEST(Pickle, IsRefusedWithTheWayOut) {
  const test::ScratchFolder scratch;
  put(scratch / "model.pt", "x");
  put(scratch / "disguised", std::string("PK\x03\x04", 4) + "archive/data.pkl");
  put(scratch / "old", "\x80\x02}q");
  for (const char* name : {"model.pt", "disguised", "old"}) {
    const std::string message = error_of([&] { open_model(scratch / name); });
    expect_contains(message, scratch / name + ": a PyTorch pickle, which can run code");
    expect_contains(message, "save_pretrained");
  }
}

// A GPT-2 in somebody's own layout: qkv by heads, (out, in) matrices, other names.
TEST(MapFile, RegistersAnArchitectureWithoutCode) {
  const test::ScratchFolder scratch;
  const ModelSource source = open(fixture("gpt2-tiny"));
  const ModelConfig& model = source.config.model;
  const std::string yaml = R"(
model: {layers: $sizes.depth, heads: $n_head, dim: 32, context: 64, vocab: 97, mlp: gelu}
attention: {dropout: 0}
prefixes: [net.]
ignored: [b.*.mask]
repeated: {out: tokens}
tensors:
  token_embedding.weight: tokens
  position_embedding.weight: {from: positions}
  blocks.*.norm1.weight: b.*.n1.w
  blocks.*.norm1.bias: b.*.n1.b
  blocks.*.attention.qkv.weight: {from: b.*.qkv.w, order: by_kv_head}
  blocks.*.attention.qkv.bias: {from: b.*.qkv.b, order: by_kv_head}
  blocks.*.attention.out.weight: b.*.out.w
  blocks.*.attention.out.bias: b.*.out.b
  blocks.*.norm2.weight: b.*.n2.w
  blocks.*.norm2.bias: b.*.n2.b
  blocks.*.mlp.up.weight: {from: [b.*.up0.w, b.*.up1.w], transpose: true}
  blocks.*.mlp.up.bias: {from: b.*.both.b, part: [0, 1]}
  blocks.*.mlp.down.weight: b.*.down.w
  blocks.*.mlp.down.bias: b.*.down.b
  norm.weight: n.w
  norm.bias: n.b
)";
  put(scratch / "map.yaml", yaml);
  fs::create_directories(scratch / "theirs");
  put(scratch / "theirs/config.json", R"({"sizes": {"depth": 2}, "n_head": 4})");
  const HfConfig config = HfConfig::load(scratch / "theirs/config.json");
  const MapFile map = load_map_file(scratch / "map.yaml", config);
  EXPECT_TRUE(map.attention.n == HeadParameterConfig::fixed(0));

  std::map<std::string, OwnedTensor> theirs;
  for (const SourceParameter& parameter : source.parameters) {
    const OwnedTensor ours(parameter.dtype, parameter.shape);
    parameter.read({}, ours.view().data);
    for (const TensorCopy& copy :
         plan_parameter(map.tensors, parameter.name, parameter.shape, model)) {
      theirs["net." + copy.theirs] = OwnedTensor(DType::f32, copy.their_shape());
      copy_to_theirs({}, copy, ours.view().data, theirs["net." + copy.theirs].view().data, 4);
    }
  }
  std::vector<NamedTensor> tensors;
  for (const auto& [name, tensor] : theirs) tensors.push_back({name, tensor});
  write_safetensors(scratch / "theirs/model.safetensors", tensors, {});
  const ModelSource mapped = open_mapped_model(scratch / "theirs", scratch / "map.yaml");
  EXPECT_EQ(logits_of(mapped), logits_of(source));
  EXPECT_TRUE(mapped.unused.empty());

  const auto refusal = [&](const std::string& from, const std::string& to) {
    std::string changed = yaml;
    changed.replace(changed.find(from), from.size(), to);
    put(scratch / "bad.yaml", changed);
    return error_of([&] { open_mapped_model(scratch / "theirs", scratch / "bad.yaml"); });
  };
  const std::string bad = scratch / "bad.yaml";
  expect_contains(refusal("$n_head", "$heads"), bad + ":2: $heads: ");
  expect_contains(refusal("$n_head", "$sizes"), "found a list or an object, expected one value");
  expect_contains(refusal("$n_head", "3"), bad + ": model.dim: 32 is not divisible");
  expect_contains(refusal("transpose: true", "transposed: true"), "unknown key (nearest known: ");
  expect_contains(refusal("part: [0, 1]", "part: [2, 2]"), "part: found [2, 2] of 1 tensors");
  expect_contains(refusal("order: by_kv_head", "order: heads"), "order: found 'heads', expected");
  expect_contains(refusal("b.*.n1.w", "b.*.n*.w"), "expected a name with at most one '*'");
  expect_contains(refusal("norm.weight: n.w\n", "norm.weight: b.*.n.w\n"),
                  "expected no '*', which norm.weight");
  expect_contains(refusal("tensors:", "tensor:"), "unknown key (nearest known: tensors)");
  expect_contains(refusal("  norm.bias: n.b\n", ""), "parameter norm.bias: the map has no tensor");
  expect_contains(refusal("norm.bias: n.b\n", "norm.bias: n.bias\n"),
                  "tensor n.bias: missing, expected for norm.bias");
  expect_contains(refusal("b.*.out.w", "b.*.qkv.w"), "found shape (96, 32), expected (32, 32)");
}

}  // namespace
}  // namespace quietformer
