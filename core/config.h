// Configuration files: YAML with fixed keys, inheritance (`base: other.yaml`) and command-line
// overrides (`section.key=value`).
//
// A file is parsed into a tree of ConfigValue that remembers file and line. Structs list their keys
// once, in `template <class V> void visit(V& v)`, calling v.field(key, member) for a value,
// v.section(key, member) for a nested struct and v.variants(key, list, base) for a list of structs
// that each say what differs from another one; ConfigReader fills them, ConfigWriter turns them
// back into a fully resolved tree, both from that one list.
//
// Every error is one InputError "FILE:LINE: section.key: what was found and what was expected".
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace quietformer {

/// A node of a parsed config: null, scalar (text), list or map (in file order).
struct ConfigValue {
  enum class Kind : std::uint8_t { null, scalar, list, map } kind = Kind::null;
  std::string text;                // scalar
  bool quoted = false;             // scalar written in quotes: never a number
  std::vector<ConfigValue> items;  // list
  std::vector<std::pair<std::string, ConfigValue>> fields;  // map
  std::string where;                                        // "FILE:LINE" or "command line"

  // Out of line: pairs of a type that is not complete yet (clang refuses the implicit ones).
  ConfigValue();
  ConfigValue(const ConfigValue&);
  ConfigValue(ConfigValue&&) noexcept;
  ConfigValue& operator=(const ConfigValue&);
  ConfigValue& operator=(ConfigValue&&) noexcept;
  ~ConfigValue();

  const ConfigValue* find(std::string_view key) const;  // map: null when absent
  static ConfigValue scalar(std::string text);
};

/// Parses YAML text. Refuses several documents, duplicate keys, non-scalar keys, more than 10,000
/// nodes (alias bombs) and text that is not UTF-8. `name` appears in messages.
ConfigValue parse_yaml(std::string_view text, const std::string& name);

/// Reads a file and resolves `base:` (relative to the file that names it; at most 16 deep).
/// Inherited maps merge key by key, except under the keys in `whole`, whose values replace the
/// inherited value entirely.
ConfigValue load_config(const std::string& path, const std::vector<std::string_view>& whole);

/// Puts the fields of the map `from` on top of those of the map `onto`, key by key as above.
void merge_config(ConfigValue& onto, ConfigValue from, const std::vector<std::string_view>& whole);

/// Applies "a.b.c=value" (value in YAML) on top.
void apply_override(ConfigValue& root, const std::string& assignment,
                    const std::vector<std::string_view>& whole);

/// The tree as YAML text: maps in block style, lists and maps below the second level inline.
std::string to_yaml(const ConfigValue& root);

/// The nearest of `known` by edit distance, empty when none is near: for "did you mean".
std::string nearest(std::string_view word, const std::vector<std::string>& known);

// Conversions. `path` is the dotted key for messages. Overload both for a type of your own.
void read_value(const ConfigValue& value, const std::string& path, bool& out);
void read_value(const ConfigValue& value, const std::string& path, std::int64_t& out);
void read_value(const ConfigValue& value, const std::string& path, std::uint64_t& out);
void read_value(const ConfigValue& value, const std::string& path, int& out);
void read_value(const ConfigValue& value, const std::string& path, double& out);  // finite
void read_value(const ConfigValue& value, const std::string& path, std::string& out);
ConfigValue write_value(bool value);
ConfigValue write_value(std::int64_t value);
ConfigValue write_value(std::uint64_t value);
ConfigValue write_value(int value);
ConfigValue write_value(double value);
ConfigValue write_value(const std::string& value);

/// Throws the standard type error: "FILE:LINE: path: expected EXPECTED, found ...".
[[noreturn]] void config_type_error(const ConfigValue& value, const std::string& path,
                                    std::string_view expected);

/// "default" stands for an absent optional.
template <class T>
void read_value(const ConfigValue& value, const std::string& path, std::optional<T>& out) {
  if (value.kind == ConfigValue::Kind::scalar && value.text == "default") {
    out.reset();
  } else {
    read_value(value, path, out.emplace());
  }
}

template <class T>
void read_value(const ConfigValue& value, const std::string& path, std::vector<T>& out) {
  if (value.kind != ConfigValue::Kind::list) config_type_error(value, path, "a list");
  out.clear();
  for (const ConfigValue& item : value.items) {
    T element{};
    read_value(item, path, element);
    out.push_back(std::move(element));
  }
}

template <class T, std::size_t N>
void read_value(const ConfigValue& value, const std::string& path, std::array<T, N>& out) {
  if (value.kind != ConfigValue::Kind::list || value.items.size() != N)
    config_type_error(value, path, "a list of " + std::to_string(N));
  for (std::size_t i = 0; i < N; ++i) read_value(value.items[i], path, out[i]);
}

template <class T>
ConfigValue write_value(const std::optional<T>& value) {
  return value ? write_value(*value) : ConfigValue::scalar("default");
}

template <class Range>
ConfigValue write_list(const Range& range) {
  ConfigValue list;
  list.kind = ConfigValue::Kind::list;
  for (const auto& item : range) list.items.push_back(write_value(item));
  return list;
}
template <class T>
ConfigValue write_value(const std::vector<T>& value) {
  return write_list(value);
}
template <class T, std::size_t N>
ConfigValue write_value(const std::array<T, N>& value) {
  return write_list(value);
}

/// Fills visited structs from one map; finish() refuses keys nobody asked for.
class ConfigReader {
 public:
  /// `prefix` is the dotted path of this map, empty at the root. A null value reads as an empty
  /// map.
  ConfigReader(const ConfigValue& map, std::string prefix);

  template <class T>
  void field(std::string_view key, T& member) {
    if (const ConfigValue* value = take(key)) read_value(*value, path(key), member);
  }
  template <class S>
  void section(std::string_view key, S& member) {
    if (const ConfigValue* value = take(key)) {
      ConfigReader inner(*value, path(key));
      member.visit(inner);
      inner.finish();
    }
  }
  /// A list of maps; each element starts from `base`, which was read before.
  template <class S, class Base>
  void variants(std::string_view key, std::vector<S>& member, const Base& base) {
    const ConfigValue* value = take(key);
    if (value == nullptr) return;
    if (value->kind != ConfigValue::Kind::list)
      config_type_error(*value, path(key), "a list of maps");
    member.clear();
    for (const ConfigValue& item : value->items) {
      S element;
      static_cast<Base&>(element) = base;
      ConfigReader inner(item, path(key) + "[" + std::to_string(member.size()) + "]");
      element.visit(inner);
      inner.finish();
      member.push_back(std::move(element));
    }
  }
  void finish() const;

 private:
  const ConfigValue* take(std::string_view key);
  std::string path(std::string_view key) const;

  const ConfigValue& map_;
  std::string prefix_;
  std::vector<std::string> known_;
};

/// Builds the resolved tree of visited structs.
class ConfigWriter {
 public:
  template <class T>
  void field(std::string_view key, T& member) {
    root_.fields.emplace_back(std::string(key), write_value(member));
  }
  template <class S>
  void section(std::string_view key, S& member) {
    ConfigWriter inner;
    member.visit(inner);
    root_.fields.emplace_back(std::string(key), std::move(inner.root_));
  }
  /// Of each element the fields that differ from those of `base`.
  template <class List, class Base>
  void variants(std::string_view key, List& member, Base& base) {
    ConfigWriter common;
    base.visit(common);
    ConfigValue list;
    list.kind = ConfigValue::Kind::list;
    for (auto& element : member) {
      ConfigWriter inner;
      element.visit(inner);
      list.items.push_back(inner.differing_from(common.root_));
    }
    root_.fields.emplace_back(std::string(key), std::move(list));
  }
  ConfigWriter() { root_.kind = ConfigValue::Kind::map; }
  const ConfigValue& root() const { return root_; }

 private:
  ConfigValue differing_from(const ConfigValue& base) const;

  ConfigValue root_;
};

}  // namespace quietformer
