#include "data/tokenizer/json.h"

#include <fmt/format.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "core/check.h"
#include "core/file.h"
#include "core/log.h"

namespace quietformer {
namespace {

constexpr std::size_t kMostBytes = std::size_t{1} << 28;
constexpr std::size_t kDeepest = 64;

/// Builds the tree event by event: a library's document would lose keys given twice.
class TreeBuilder : public nlohmann::json_sax<nlohmann::json> {
 public:
  TreeBuilder(JsonNode& root, const std::string& path) : root_(root), path_(path) {}

  bool null() override { return add({}); }
  bool boolean(bool value) override {
    JsonNode node;
    node.kind = JsonNode::Kind::boolean;
    node.integer = value;
    return add(std::move(node));
  }
  bool number_integer(number_integer_t value) override {
    JsonNode node;
    node.kind = JsonNode::Kind::integer;
    node.integer = value;
    return add(std::move(node));
  }
  bool number_unsigned(number_unsigned_t value) override {
    constexpr auto kMost = std::numeric_limits<std::int64_t>::max();
    if (value > static_cast<number_unsigned_t>(kMost)) return number_float(0, "");
    return number_integer(static_cast<std::int64_t>(value));
  }
  bool number_float(number_float_t, const string_t&) override {
    JsonNode node;
    node.kind = JsonNode::Kind::real;
    return add(std::move(node));
  }
  bool string(string_t& value) override {
    JsonNode node;
    node.kind = JsonNode::Kind::text;
    node.text = std::move(value);
    return add(std::move(node));
  }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open(JsonNode::Kind::map); }
  bool start_array(std::size_t) override { return open(JsonNode::Kind::list); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& key) override {
    if (!open_.back().keys.insert(key).second)
      throw InputError(fmt::format("{}: key '{}' is given twice", path_, one_line(key, 60)));
    key_ = std::move(key);
    return true;
  }
  bool parse_error(std::size_t byte, const std::string&,
                   const nlohmann::detail::exception&) override {
    throw InputError(fmt::format("{}: not UTF-8 JSON, at byte {}", path_, byte));
  }

 private:
  // A parent's vector grows only while none of its children is open, so the pointers stay.
  struct Open {
    JsonNode* node;
    std::unordered_set<std::string> keys;
  };

  bool add(JsonNode node) {
    place(std::move(node));
    return true;
  }
  JsonNode* place(JsonNode node) {
    if (open_.empty()) {
      root_ = std::move(node);
      return &root_;
    }
    node.key = std::move(key_);
    key_.clear();
    return &open_.back().node->children.emplace_back(std::move(node));
  }
  bool open(JsonNode::Kind kind) {
    if (open_.size() == kDeepest)
      throw InputError(fmt::format("{}: nested more than {} deep", path_, kDeepest));
    JsonNode node;
    node.kind = kind;
    open_.push_back({place(std::move(node)), {}});
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  JsonNode& root_;
  const std::string& path_;
  std::vector<Open> open_;
  std::string key_;
};

std::string found(const JsonNode& node) {
  switch (node.kind) {
    case JsonNode::Kind::null:
      return "nothing";
    case JsonNode::Kind::boolean:
      return node.integer != 0 ? "true" : "false";
    case JsonNode::Kind::integer:
      return std::to_string(node.integer);
    case JsonNode::Kind::real:
      return "a number that is not an integer of 64 bits";
    case JsonNode::Kind::text:
      return fmt::format("'{}'", one_line(node.text, 60));
    case JsonNode::Kind::list:
      return fmt::format("a list of {}", node.children.size());
    case JsonNode::Kind::map:
      return fmt::format("an object of {} keys", node.children.size());
  }
  return "";
}

const JsonNode kNull;

}  // namespace

JsonNode read_json(const std::string& path) {
  const std::string text = read_file(path, kMostBytes);
  JsonNode root;
  TreeBuilder builder(root, path);
  nlohmann::json::sax_parse(text, &builder);
  return root;
}

Json Json::operator[](std::string_view key) const {
  if (!is_null() && !is_map()) fail("an object");
  std::string path = path_.empty() ? std::string(key) : path_ + "." + one_line(key, 60);
  for (const JsonNode& child : node_->children)
    if (child.key == key) return {&child, file_, std::move(path)};
  return {&kNull, file_, std::move(path)};
}

std::vector<Json> Json::values() const {
  if (!is_list() && !is_map()) fail("a list or an object");
  std::vector<Json> places;
  for (std::size_t i = 0; i < node_->children.size(); ++i) {
    const JsonNode& child = node_->children[i];
    const std::string step = is_map() ? "." + one_line(child.key, 60) : fmt::format("[{}]", i);
    places.push_back({&child, file_, path_.empty() && is_map() ? step.substr(1) : path_ + step});
  }
  return places;
}

const std::string& Json::text() const {
  if (!is_text()) fail("a text");
  return node_->text;
}

std::string Json::text(std::string_view otherwise) const {
  return is_null() ? std::string(otherwise) : text();
}

bool Json::flag(bool otherwise) const {
  if (is_null()) return otherwise;
  if (node_->kind != JsonNode::Kind::boolean) fail("true or false");
  return node_->integer != 0;
}

std::int64_t Json::integer(std::int64_t least, std::int64_t most) const {
  const bool good =
      node_->kind == JsonNode::Kind::integer && node_->integer >= least && node_->integer <= most;
  if (!good) fail(fmt::format("an integer from {} to {}", least, most));
  return node_->integer;
}

void Json::fail(std::string_view expected) const {
  throw InputError(fmt::format("{}: found {}, expected {}", where(), found(*node_), expected));
}

}  // namespace quietformer
