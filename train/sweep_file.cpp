#include "train/sweep_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "core/check.h"

namespace quietformer {
namespace {

namespace fs = std::filesystem;
using Kind = ConfigValue::Kind;

/// A map as it stands in the file.
struct Fields {
  ConfigValue map;
};

void read_value(const ConfigValue& value, const std::string& path, Fields& out) {
  if (value.kind != Kind::map && value.kind != Kind::null) config_type_error(value, path, "a map");
  out.map = value;
  out.map.kind = Kind::map;
}

struct SweepFile {
  std::string name = "sweep", directory, config;
  std::vector<std::uint64_t> seeds{1};
  Fields common, variants;
  std::vector<std::string> quantize;

  template <class V>
  void visit(V& v) {
    v.field("name", name);
    v.field("directory", directory);
    v.field("config", config);
    v.field("seeds", seeds);
    v.field("common", common);
    v.field("variants", variants);
    v.field("quantize", quantize);
  }
};

[[noreturn]] void fail(const ConfigValue& where, const std::string& message) {
  throw InputError(fmt::format("{}: {}", where.where, message));
}

bool is_plain_name(const std::string& name) {
  const auto good = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || c == '.';
  };
  return !name.empty() && name.size() <= 100 && name[0] != '.' && name[0] != '-' &&
         std::all_of(name.begin(), name.end(), good);
}

bool is_scheme(const std::string& text) {
  const std::size_t a = text.find('A');
  const auto digits = [](const std::string& part) {
    return !part.empty() && part.size() <= 2 &&
           std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
  };
  return text.starts_with('W') && a != std::string::npos && digits(text.substr(1, a - 1)) &&
         digits(text.substr(a + 1));
}

/// The tree of the config that `node` names, relative to the file that it stands in.
ConfigValue config_at(const ConfigValue& node, const std::string& key) {
  if (node.kind != Kind::scalar) config_type_error(node, key, "a file name");
  const std::string file = node.where.substr(0, node.where.rfind(':'));
  const std::string path = (fs::path(file).parent_path() / node.text).lexically_normal().string();
  std::error_code error;
  if (!fs::exists(path, error)) fail(node, fmt::format("{}: {}: no such config file", key, path));
  return load_run_tree(path);
}

/// Keys of a run that are the sweep's to set.
void refuse_own_keys(const ConfigValue& keys, const std::string& path) {
  if (const ConfigValue* name = keys.find("name"))
    fail(*name, path + ".name: a run has the name of its variant");
  const ConfigValue* train = keys.find("train");
  if (train == nullptr) return;
  if (const ConfigValue* seed = train->find("seed"))
    fail(*seed, path + ".train.seed: seeds stand in the list 'seeds'");
}

/// All of one variant but its seed.
RunConfig variant_config(const SweepFile& file, const ConfigValue& root, const std::string& name,
                         const ConfigValue& given) {
  const std::string path = "variants." + name;
  Fields keys;
  read_value(given, path, keys);
  const ConfigValue* own = given.find("config");
  const ConfigValue* shared = root.find("config");
  ConfigValue tree;
  tree.kind = Kind::map;
  if (own != nullptr)
    tree = config_at(*own, path + ".config");
  else if (shared != nullptr)
    tree = config_at(*shared, "config");
  std::erase_if(keys.map.fields, [](const auto& field) { return field.first == "config"; });
  refuse_own_keys(file.common.map, "common");
  refuse_own_keys(keys.map, path);
  merge_run_tree(tree, file.common.map);
  merge_run_tree(tree, keys.map);
  RunConfig config = read_run_tree(tree);
  config.name = name;
  try {
    validate(config);
  } catch (const InputError& error) {
    fail(given, fmt::format("{}: {}", path, error.what()));
  }
  if (config.train.device.starts_with("cuda:"))
    fail(given, fmt::format("{}: train.device: found {}, expected auto, cpu or cuda: the sweep "
                            "chooses the GPU",
                            path, config.train.device));
  return config;
}

void check(const SweepFile& file, const ConfigValue& root) {
  if (!is_plain_name(file.name))
    fail(*root.find("name"),
         fmt::format("name: found '{}', expected letters, digits and . _ -", file.name));
  if (const ConfigValue* seeds = root.find("seeds")) {
    if (file.seeds.empty()) fail(*seeds, "seeds: found none, expected one or more");
    if (std::set(file.seeds.begin(), file.seeds.end()).size() != file.seeds.size())
      fail(*seeds, "seeds: found one twice");
  }
  for (const std::string& scheme : file.quantize)
    if (!is_scheme(scheme))
      fail(*root.find("quantize"),
           fmt::format("quantize: found '{}', expected schemes such as W8A8", scheme));
}

}  // namespace

std::string SweepRun::name() const {
  return fmt::format("{}-seed{}", variant, seed);
}

Sweep read_sweep(const std::string& path) {
  // `base` makes a sweep of another one, as it does with configs.
  const ConfigValue root = load_run_tree(path);
  SweepFile file;
  ConfigReader reader(root, "");
  file.visit(reader);
  reader.finish();
  check(file, root);
  if (file.variants.map.fields.empty())
    throw InputError(
        fmt::format("{}: variants: found none, expected NAME: {{keys of a config}}", path));
  Sweep sweep;
  sweep.name = file.name;
  sweep.directory = file.directory.empty() ? "sweeps/" + file.name : file.directory;
  sweep.schemes = file.quantize;
  for (const auto& [name, given] : file.variants.map.fields) {
    if (!is_plain_name(name))
      fail(given, fmt::format("variants: found '{}', expected letters, digits and . _ -", name));
    RunConfig config = variant_config(file, root, name, given);
    const std::string& device =
        sweep.runs.empty() ? config.train.device : sweep.runs[0].config.train.device;
    if ((config.train.device == "cpu") != (device == "cpu"))
      fail(given, fmt::format("variants.{}: train.device: found {}, expected {} as in variants.{}",
                              name, config.train.device, device, sweep.runs[0].variant));
    for (const std::uint64_t seed : file.seeds) {
      config.train.seed = seed;
      sweep.runs.push_back({name, seed, config});
    }
  }
  return sweep;
}

}  // namespace quietformer
