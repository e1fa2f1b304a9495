// JSON documents as trees that know their file and key, for messages.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace quietformer {

struct JsonNode {
  enum class Kind : std::uint8_t { null, boolean, integer, real, text, list, map };
  Kind kind = Kind::null;
  std::string key;                 // in a map, where keys are unique
  std::string text;                // text
  std::int64_t integer = 0;        // integer, and boolean as 0 or 1
  std::vector<JsonNode> children;  // list, map
};

/// Reads a file of JSON. InputError "PATH: ..." when it is not UTF-8 JSON, nested more than 64
/// deep, longer than 256 MiB, or gives a key twice.
JsonNode read_json(const std::string& path);

/// A place in a document, which must outlive it. Everything that is not as asked for throws
/// InputError "FILE: key.key: found X, expected Y".
class Json {
 public:
  Json(const JsonNode& root, std::string file) : node_(&root), file_(std::move(file)) {}

  bool is_null() const { return node_->kind == JsonNode::Kind::null; }
  bool is_text() const { return node_->kind == JsonNode::Kind::text; }
  bool is_list() const { return node_->kind == JsonNode::Kind::list; }
  bool is_map() const { return node_->kind == JsonNode::Kind::map; }
  const JsonNode& node() const { return *node_; }
  const std::string& file() const { return file_; }
  std::string where() const { return path_.empty() ? file_ : file_ + ": " + path_; }

  /// A map's value; null when the key is absent or this place is null.
  Json operator[](std::string_view key) const;
  /// A list's or a map's values.
  std::vector<Json> values() const;

  const std::string& text() const;
  /// Null gives `otherwise`.
  std::string text(std::string_view otherwise) const;
  bool flag(bool otherwise) const;
  std::int64_t integer(std::int64_t least, std::int64_t most) const;

  /// Throws: found what is here.
  [[noreturn]] void fail(std::string_view expected) const;

 private:
  Json(const JsonNode* node, std::string file, std::string path)
      : node_(node), file_(std::move(file)), path_(std::move(path)) {}

  const JsonNode* node_;
  std::string file_, path_;
};

}  // namespace quietformer
