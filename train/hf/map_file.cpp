#include "train/hf/map_file.h"

#include <fmt/format.h>

#include <filesystem>
#include <utility>
#include <vector>

#include "core/check.h"
#include "core/config.h"
#include "train/hf/import.h"
#include "train/run_config.h"

namespace quietformer {
namespace {

namespace fs = std::filesystem;
using Kind = ConfigValue::Kind;

// As in configs, and a tensor's description, which is a map of its own kind.
const std::vector<std::string_view> kWholeKeys = [] {
  std::vector<std::string_view> keys = kHeadParameterKeys;
  keys.insert(keys.end(), {"tensors", "repeated"});
  return keys;
}();

struct RuleForm {
  std::vector<std::string> from;
  bool transpose = false;
  std::array<std::int64_t, 2> part{0, 1};
  std::string order = "q_k_v", pairs = "halves";

  template <class V>
  void visit(V& v) {
    v.field("from", from);
    v.field("transpose", transpose);
    v.field("part", part);
    v.field("order", order);
    v.field("pairs", pairs);
  }
};

// "name" is ["name"].
ConfigValue as_list(const ConfigValue& value) {
  if (value.kind != Kind::scalar) return value;
  ConfigValue list;
  list.kind = Kind::list;
  list.where = value.where;
  list.items.push_back(value);
  return list;
}

// Two words for the two values of an enum.
template <class Enum>
Enum choose(const ConfigValue& at, const std::string& path, const std::string& word,
            const std::pair<const char*, Enum>& first, const std::pair<const char*, Enum>& second) {
  if (word == first.first) return first.second;
  if (word == second.first) return second.second;
  throw InputError(fmt::format("{}: {}: found '{}', expected {} or {}", at.where, path, word,
                               first.first, second.first));
}

void check_pattern(const ConfigValue& at, const std::string& path, const std::string& name) {
  const std::size_t star = name.find('*');
  if (name.empty() || (star != std::string::npos && name.find('*', star + 1) != std::string::npos))
    throw InputError(fmt::format("{}: {}: found '{}', expected a name with at most one '*'",
                                 at.where, path, name));
}

TensorRule read_rule(const std::string& ours, const ConfigValue& value) {
  const std::string path = "tensors." + ours;
  RuleForm form;
  if (value.kind == Kind::map) {
    ConfigValue description = value;
    for (auto& [key, item] : description.fields)
      if (key == "from") item = as_list(item);
    ConfigReader reader(description, path);
    form.visit(reader);
    reader.finish();
  } else {
    read_value(as_list(value), path, form.from);
  }
  const auto [index, count] = form.part;
  if (form.from.empty())
    throw InputError(
        fmt::format("{}: {}.from: missing, expected a tensor's name", value.where, path));
  if (count < 1 || count > 64 || index < 0 || index >= count || (count > 1 && form.from.size() > 1))
    throw InputError(
        fmt::format("{}: {}.part: found [{}, {}] of {} tensors, expected [index, "
                    "count] of one",
                    value.where, path, index, count, form.from.size()));
  check_pattern(value, path, ours);
  TensorRule rule;
  rule.ours = ours;
  for (const std::string& name : form.from) {
    check_pattern(value, path, name);
    if (name.find('*') != std::string::npos && ours.find('*') == std::string::npos)
      throw InputError(fmt::format("{}: {}: found '{}', expected no '*', which {} does not have",
                                   value.where, path, name, ours));
  }
  rule.theirs = std::move(form.from);
  rule.matrix = form.transpose ? Matrix::in_out : Matrix::out_in;
  rule.part = {static_cast<int>(index), static_cast<int>(count)};
  rule.order = choose<QkvOrder>(value, path + ".order", form.order, {"q_k_v", QkvOrder::q_k_v},
                                {"by_kv_head", QkvOrder::by_kv_head});
  rule.pairs =
      choose<RotaryPairs>(value, path + ".pairs", form.pairs, {"halves", RotaryPairs::halves},
                          {"adjacent", RotaryPairs::adjacent});
  return rule;
}

void expect_map(const ConfigValue& value, const std::string& path) {
  if (value.kind != Kind::map) config_type_error(value, path, "a map of names");
}

struct Rules {
  std::vector<TensorRule>& list;
};

void read_value(const ConfigValue& value, const std::string& path, Rules& out) {
  expect_map(value, path);
  for (const auto& [ours, rule] : value.fields) out.list.push_back(read_rule(ours, rule));
}

struct Repeated {
  std::vector<RepeatedTensor>& list;
};

void read_value(const ConfigValue& value, const std::string& path, Repeated& out) {
  expect_map(value, path);
  for (const auto& [name, of] : value.fields) {
    RepeatedTensor repeated{name, {}};
    quietformer::read_value(of, path + "." + name, repeated.of);
    out.list.push_back(std::move(repeated));
  }
}

// Scalars "$KEY" become what config.json says.
void substitute(ConfigValue& value, const HfConfig& config) {
  for (ConfigValue& item : value.items) substitute(item, config);
  for (auto& [key, item] : value.fields) substitute(item, config);
  if (value.kind != Kind::scalar || !value.text.starts_with('$')) return;
  const std::string where = value.where, key = value.text.substr(1);
  try {
    value = config.scalar(key);
  } catch (const InputError& error) {
    throw InputError(fmt::format("{}: ${}: {}", where, key, error.what()));
  }
  value.where = where;
}

}  // namespace

MapFile load_map_file(const std::string& path, const HfConfig& config) {
  ConfigValue tree = load_config(path, kWholeKeys);
  for (auto& [key, section] : tree.fields)
    if (key == "model" || key == "attention") substitute(section, config);
  MapFile map;
  map.attention.n = HeadParameterConfig::fixed(0);
  Rules rules{map.tensors.rules};
  Repeated repeated{map.tensors.repeated};
  ConfigReader reader(tree, "");
  reader.section("model", map.model);
  reader.section("attention", map.attention);
  reader.field("tensors", rules);
  reader.field("prefixes", map.tensors.prefixes);
  reader.field("ignored", map.tensors.ignored);
  reader.field("repeated", repeated);
  reader.finish();
  if (map.tensors.rules.empty())
    throw InputError(fmt::format("{}: tensors: missing, expected a map of names", path));
  try {
    validate(map.model, map.attention);
  } catch (const InputError& error) {
    throw InputError(fmt::format("{}: {}", path, error.what()));
  }
  return map;
}

ModelSource open_mapped_model(const std::string& path, const std::string& map_path) {
  if (!fs::exists(path)) throw InputError(fmt::format("{}: no such file or directory", path));
  ModelSource source;
  source.path = path;
  if (fs::is_directory(path)) source.files = read_companions(path);
  HfConfig config("{}", path + ": config.json");
  if (const auto found = source.files.find("config.json"); found != source.files.end())
    config = HfConfig(found->second, path + "/config.json");
  MapFile map = load_map_file(map_path, config);
  source.config.model = map.model;
  source.config.attention = map.attention;
  source.config.data.source = "tokens";
  map_parameters(source, std::make_shared<const TensorFiles>(path), map.tensors);
  return source;
}

}  // namespace quietformer
