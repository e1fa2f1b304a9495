#include "core/config.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "core/check.h"

namespace quietformer {
namespace {

struct Schedule {
  std::string type = "cosine";
  std::int64_t warmup = 200;
  template <class V>
  void visit(V& v) {
    v.field("type", type);
    v.field("warmup", warmup);
  }
};

struct Section {
  std::int64_t layers = 8;
  double rate = 0.5;
  bool tied = true;
  std::optional<double> scale;
  std::array<std::int64_t, 2> window{-1, -1};
  std::vector<std::string> sites{"a"};
  Schedule schedule;
  template <class V>
  void visit(V& v) {
    v.field("layers", layers);
    v.field("rate", rate);
    v.field("tied", tied);
    v.field("scale", scale);
    v.field("window", window);
    v.field("sites", sites);
    v.section("schedule", schedule);
  }
};

struct Root {
  std::string name = "x";
  Section model;
  template <class V>
  void visit(V& v) {
    v.field("name", name);
    v.section("model", model);
  }
};

Root read(const ConfigValue& tree) {
  Root root;
  ConfigReader reader(tree, "");
  root.visit(reader);
  reader.finish();
  return root;
}

std::string error_of(const std::string& yaml) {
  try {
    read(parse_yaml(yaml, "f.yaml"));
  } catch (const InputError& error) {
    return error.what();
  }
  return "no error";
}

TEST(Config, ReadsEveryTypeAndWritesItBack) {
  Root root =
      read(parse_yaml("name: '12'\nmodel: {layers: 2, rate: 1.0e-3, tied: false, scale: 3, "
                      "window: [4, 0], sites: [\"blocks.*\", b], schedule: {warmup: 7}}\n",
                      "f.yaml"));
  EXPECT_EQ(root.model.layers, 2);
  EXPECT_EQ(root.model.rate, 1e-3);
  EXPECT_EQ(*root.model.scale, 3);
  EXPECT_EQ(root.model.window[0], 4);
  EXPECT_EQ(root.model.sites[0], "blocks.*");
  EXPECT_EQ(root.model.schedule.type, "cosine");
  ConfigWriter writer;
  root.visit(writer);
  const std::string text = to_yaml(writer.root());
  Root again = read(parse_yaml(text, "again"));
  ConfigWriter second;
  again.visit(second);
  EXPECT_EQ(text, to_yaml(second.root()));
  EXPECT_EQ(again.name, "12");
  EXPECT_FALSE(again.model.tied);
}

TEST(Config, ErrorsNameFileLineAndNearestKey) {
  EXPECT_EQ(error_of("name: a\nmodel:\n  layrs: 3\n"),
            "f.yaml:3: model.layrs: unknown key (nearest known: model.layers)");
  EXPECT_EQ(error_of("model: {layers: many}"),
            "f.yaml:1: model.layers: expected an integer, found 'many'");
  EXPECT_EQ(error_of("model: {layers: 2.5}"),
            "f.yaml:1: model.layers: expected an integer, found '2.5'");
  EXPECT_EQ(error_of("model: {rate: .nan}"),
            "f.yaml:1: model.rate: expected a finite number, found '.nan'");
  EXPECT_EQ(error_of("model: {tied: yes}"),
            "f.yaml:1: model.tied: expected true or false, found 'yes'");
  EXPECT_EQ(error_of("model: {window: [1]}"),
            "f.yaml:1: model.window: expected a list of 2, found a list of 1");
  EXPECT_EQ(error_of("model: 3"), "f.yaml:1: model: expected a map of keys, found '3'");
  EXPECT_EQ(error_of("model:\n  layers:\n"),
            "f.yaml:2: model.layers: expected a value, found nothing");
  EXPECT_EQ(error_of("name: a\nname: b\n"), "f.yaml:2: name: key given twice");
  EXPECT_NE(error_of("model: [").find("f.yaml:1: not valid YAML"), std::string::npos);
  EXPECT_EQ(error_of("\xff\xfe\x01"), "f.yaml: not a text file (expected YAML in UTF-8)");
  EXPECT_EQ(error_of("a: 1\n---\nb: 2\n"), "f.yaml: several YAML documents, expected one");
}

TEST(Config, AliasBombIsRefused) {
  std::string bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 9; ++i) {
    bomb += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [";
    for (int k = 0; k < 10; ++k) bomb += (k ? ", *a" : "*a") + std::to_string(i - 1);
    bomb += "]\n";
  }
  EXPECT_EQ(error_of(bomb), "f.yaml: more than 10000 values");
}

TEST(Config, BaseInheritanceMergesSectionsAndReplacesWholeKeys) {
  const auto dir = std::filesystem::path(testing::TempDir()) / "config_base";
  std::filesystem::create_directories(dir / "sub");
  std::ofstream(dir / "base.yaml")
      << "name: base\nmodel: {layers: 1, rate: 2, n: {learned: true}}\n";
  std::ofstream(dir / "sub/child.yaml") << "base: ../base.yaml\nmodel: {layers: 5, n: {from: 0}}\n";
  std::ofstream(dir / "circle.yaml") << "base: circle.yaml\n";
  std::ofstream(dir / "lost.yaml") << "base: nowhere.yaml\n";
  ConfigValue tree = load_config((dir / "sub/child.yaml").string(), {"n"});
  apply_override(tree, "model.schedule.warmup=9", {"n"});
  EXPECT_EQ(
      to_yaml(tree),
      "name: base\nmodel:\n  layers: 5\n  rate: 2\n  n: {from: 0}\n  schedule: {warmup: 9}\n");
  EXPECT_THROW(load_config((dir / "circle.yaml").string(), {}), InputError);
  EXPECT_THROW(load_config((dir / "lost.yaml").string(), {}), InputError);
  EXPECT_THROW(load_config(dir.string(), {}), InputError);
  EXPECT_THROW(apply_override(tree, "model", {}), InputError);
  EXPECT_THROW(apply_override(tree, "model.=3", {}), InputError);
}

}  // namespace
}  // namespace quietformer
