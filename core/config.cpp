#include "core/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "core/check.h"
#include "core/file.h"

namespace quietformer {
namespace {

using Kind = ConfigValue::Kind;

constexpr int kMaxBaseDepth = 16;
constexpr std::size_t kMaxFileBytes = 1 << 20;

std::string read_text(const std::string& path) {
  namespace fs = std::filesystem;
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) throw InputError(fmt::format("{}: no such config file", path));
  if (fs::is_directory(status))
    throw InputError(fmt::format("{}: is a directory, expected a YAML config file", path));
  if (fs::is_regular_file(status) && fs::file_size(path, error) > kMaxFileBytes)
    throw InputError(
        fmt::format("{}: {} bytes, more than a config of 1 MiB", path, fs::file_size(path, error)));
  return read_file(path, kMaxFileBytes);  // a device or pipe may have no end
}

bool listed(const std::vector<std::string_view>& keys, std::string_view key) {
  return std::find(keys.begin(), keys.end(), key) != keys.end();
}

ConfigValue load(const std::string& path, const std::vector<std::string_view>& whole, int depth) {
  if (depth > kMaxBaseDepth)
    throw InputError(
        fmt::format("{}: base: more than {} files deep (a circle?)", path, kMaxBaseDepth));
  ConfigValue root = parse_yaml(read_text(path), path);
  if (root.kind == Kind::null) root.kind = Kind::map;
  if (root.kind != Kind::map)
    throw InputError(fmt::format("{}: expected sections such as 'model:' and 'train:'", path));
  const ConfigValue* base = root.find("base");
  if (base == nullptr) return root;
  if (base->kind != Kind::scalar) config_type_error(*base, "base", "a file name");
  const std::string parent =
      (std::filesystem::path(path).parent_path() / base->text).lexically_normal().string();
  std::error_code error;  // exists() throws for names that are too long
  if (!std::filesystem::exists(parent, error))
    throw InputError(fmt::format("{}: base: {}: no such config file", base->where, parent));
  ConfigValue merged = load(parent, whole, depth + 1);
  std::erase_if(root.fields, [](const auto& field) { return field.first == "base"; });
  merge_config(merged, std::move(root), whole);
  return merged;
}

std::string describe(const ConfigValue& value) {
  switch (value.kind) {
    case Kind::null:
      return "nothing";
    case Kind::scalar:
      return fmt::format("'{}'", value.text);
    case Kind::list:
      return fmt::format("a list of {}", value.items.size());
    case Kind::map:
      return "a map";
  }
  return "";
}

template <class T>
bool parse_integer(const ConfigValue& value, T& out) {
  if (value.kind != Kind::scalar || value.quoted) return false;
  std::string_view text = value.text;
  if (text.starts_with('+')) text.remove_prefix(1);
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  return error == std::errc() && end == text.data() + text.size() && !text.empty();
}

}  // namespace

ConfigValue::ConfigValue() = default;
ConfigValue::ConfigValue(const ConfigValue&) = default;
ConfigValue::ConfigValue(ConfigValue&&) noexcept = default;
ConfigValue& ConfigValue::operator=(const ConfigValue&) = default;
ConfigValue& ConfigValue::operator=(ConfigValue&&) noexcept = default;
ConfigValue::~ConfigValue() = default;

const ConfigValue* ConfigValue::find(std::string_view key) const {
  for (const auto& [name, value] : fields)
    if (name == key) return &value;
  return nullptr;
}

ConfigValue ConfigValue::scalar(std::string text) {
  ConfigValue value;
  value.kind = Kind::scalar;
  value.text = std::move(text);
  return value;
}

ConfigValue load_config(const std::string& path, const std::vector<std::string_view>& whole) {
  return load(path, whole, 0);
}

void merge_config(ConfigValue& onto, ConfigValue from, const std::vector<std::string_view>& whole) {
  for (auto& [key, value] : from.fields) {
    auto at = std::find_if(onto.fields.begin(), onto.fields.end(),
                           [&key = key](const auto& field) { return field.first == key; });
    if (at == onto.fields.end())
      onto.fields.emplace_back(key, std::move(value));
    else if (at->second.kind == Kind::map && value.kind == Kind::map && !listed(whole, key))
      merge_config(at->second, std::move(value), whole);
    else
      at->second = std::move(value);
  }
}

void apply_override(ConfigValue& root, const std::string& assignment,
                    const std::vector<std::string_view>& whole) {
  const std::size_t equals = assignment.find('=');
  if (equals == std::string::npos || equals == 0)
    throw InputError(fmt::format("'{}': expected section.key=value", assignment));
  ConfigValue value = parse_yaml(std::string_view(assignment).substr(equals + 1), "command line");
  value.where = "command line";
  std::string path = assignment.substr(0, equals);
  while (true) {
    const std::size_t dot = path.rfind('.');
    const std::string key = path.substr(dot == std::string::npos ? 0 : dot + 1);
    if (key.empty()) throw InputError(fmt::format("'{}': expected section.key=value", assignment));
    ConfigValue map;
    map.kind = Kind::map;
    map.where = "command line";
    map.fields.emplace_back(key, std::move(value));
    value = std::move(map);
    if (dot == std::string::npos) break;
    path.resize(dot);
  }
  merge_config(root, std::move(value), whole);
}

std::string nearest(std::string_view word, const std::vector<std::string>& known) {
  std::string best;
  std::size_t best_distance = std::max<std::size_t>(2, word.size() / 2);
  for (const std::string& candidate : known) {
    std::vector<std::size_t> row(candidate.size() + 1);
    for (std::size_t j = 0; j < row.size(); ++j) row[j] = j;
    for (std::size_t i = 1; i <= word.size(); ++i) {
      std::size_t diagonal = row[0];
      row[0] = i;
      for (std::size_t j = 1; j < row.size(); ++j) {
        const std::size_t replaced = diagonal + (word[i - 1] != candidate[j - 1]);
        diagonal = row[j];
        row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
      }
    }
    if (row.back() <= best_distance && (best.empty() || row.back() < best_distance)) {
      best = candidate;
      best_distance = row.back();
    }
  }
  return best;
}

void config_type_error(const ConfigValue& value, const std::string& path,
                       std::string_view expected) {
  throw InputError(
      fmt::format("{}: {}: expected {}, found {}", value.where, path, expected, describe(value)));
}

void read_value(const ConfigValue& value, const std::string& path, bool& out) {
  if (value.kind != Kind::scalar || value.quoted || (value.text != "true" && value.text != "false"))
    config_type_error(value, path, "true or false");
  out = value.text == "true";
}

void read_value(const ConfigValue& value, const std::string& path, std::int64_t& out) {
  if (!parse_integer(value, out)) config_type_error(value, path, "an integer");
}

void read_value(const ConfigValue& value, const std::string& path, std::uint64_t& out) {
  if (!parse_integer(value, out)) config_type_error(value, path, "a non-negative integer");
}

void read_value(const ConfigValue& value, const std::string& path, int& out) {
  if (!parse_integer(value, out)) config_type_error(value, path, "an integer");
}

void read_value(const ConfigValue& value, const std::string& path, double& out) {
  if (value.kind == Kind::scalar && !value.quoted && !value.text.empty()) {
    std::string_view text = value.text;
    if (text.starts_with('+')) text.remove_prefix(1);
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
    if (error == std::errc() && end == text.data() + text.size() && std::isfinite(out)) return;
  }
  config_type_error(value, path, "a finite number");
}

void read_value(const ConfigValue& value, const std::string& path, std::string& out) {
  if (value.kind != Kind::scalar) config_type_error(value, path, "a word");
  out = value.text;
}

ConfigValue write_value(bool value) {
  return ConfigValue::scalar(value ? "true" : "false");
}
ConfigValue write_value(std::int64_t value) {
  return ConfigValue::scalar(fmt::format("{}", value));
}
ConfigValue write_value(std::uint64_t value) {
  return ConfigValue::scalar(fmt::format("{}", value));
}
ConfigValue write_value(int value) {
  return ConfigValue::scalar(fmt::format("{}", value));
}
ConfigValue write_value(double value) {
  return ConfigValue::scalar(fmt::format("{}", value));
}

ConfigValue write_value(const std::string& value) {
  ConfigValue scalar = ConfigValue::scalar(value);
  // Words that YAML would read back as something else keep their quotes.
  double number;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
  scalar.quoted = value.empty() || value == "true" || value == "false" || value == "null" ||
                  value == "~" || (error == std::errc() && end == value.data() + value.size());
  return scalar;
}

ConfigReader::ConfigReader(const ConfigValue& map, std::string prefix)
    : map_(map), prefix_(std::move(prefix)) {
  if (map.kind != Kind::map && map.kind != Kind::null)
    config_type_error(map, prefix_, "a map of keys");
}

const ConfigValue* ConfigReader::take(std::string_view key) {
  known_.emplace_back(key);
  const ConfigValue* value = map_.find(key);
  if (value != nullptr && value->kind == Kind::null)
    config_type_error(*value, path(key), "a value");
  return value;
}

std::string ConfigReader::path(std::string_view key) const {
  return prefix_.empty() ? std::string(key) : fmt::format("{}.{}", prefix_, key);
}

void ConfigReader::finish() const {
  for (const auto& [key, value] : map_.fields) {
    if (std::find(known_.begin(), known_.end(), key) != known_.end()) continue;
    const std::string near = nearest(key, known_);
    throw InputError(
        fmt::format("{}: {}: unknown key{}", value.where, path(key),
                    near.empty() ? "" : fmt::format(" (nearest known: {})", path(near))));
  }
}

ConfigValue ConfigWriter::differing_from(const ConfigValue& base) const {
  ConfigValue rest = root_;
  std::erase_if(rest.fields, [&](const auto& field) {
    const ConfigValue* same = base.find(field.first);
    return same != nullptr && to_yaml(*same) == to_yaml(field.second);
  });
  return rest;
}

}  // namespace quietformer
