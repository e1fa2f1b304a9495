// config.json of a Hugging Face model, read and written key by key. Errors name file and key.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "core/config.h"

namespace quietformer {

class HfConfig {
 public:
  HfConfig();  // {}
  /// InputError for what is not a JSON object; `path` is for messages.
  HfConfig(std::string_view json, std::string path);
  static HfConfig load(const std::string& path);

  const std::string& path() const { return path_; }
  /// Absent keys and null are the same.
  bool is_null(std::string_view key) const;

  // InputError when the value is of another kind, and without `otherwise` when there is none.
  // Integers are sizes, which are positive, or ids of tokens, which may be 0.
  std::int64_t integer(std::string_view key) const;
  std::int64_t integer(std::string_view key, std::int64_t otherwise) const;
  std::int64_t id(std::string_view key, std::int64_t otherwise) const;
  double number(std::string_view key, double otherwise) const;
  bool flag(std::string_view key, bool otherwise) const;
  std::string text(std::string_view key, const std::string& otherwise) const;
  HfConfig object(std::string_view key) const;  // {} when absent
  bool is_empty() const;

  /// "PATH: KEY: VALUE, expected EXPECTED".
  [[noreturn]] void refuse(std::string_view key, std::string_view expected) const;
  /// Refuses any value but false and the absent one, which mean the same.
  void expect_off(std::string_view key) const;

  void set(std::string_view key, std::int64_t value);
  void set(std::string_view key, double value);
  void set(std::string_view key, bool value);
  void set(std::string_view key, const char* value);
  void set(std::string_view key, const std::string& value);
  void set_list(std::string_view key, const std::string& only);
  void set_null(std::string_view key);
  void set(std::string_view key, const HfConfig& value);
  void erase(std::string_view key);

  /// Our configuration trees, for the key `quietformer`: words that are numbers or booleans become
  /// such.
  void set(std::string_view key, const ConfigValue& tree);
  ConfigValue tree(std::string_view key) const;  // of kind null when absent
  /// The value at "a.b.c" as a scalar, for maps that refer to it. InputError when there is none.
  ConfigValue scalar(std::string_view dotted_key) const;

  std::string dump() const;  // indented, keys sorted, with a final newline

 private:
  struct State;
  std::string path_;
  std::shared_ptr<const State> state_;
  State& change();
};

}  // namespace quietformer
