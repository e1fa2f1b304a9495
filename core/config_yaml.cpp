// YAML text to ConfigValue and back.
//
// The tree is built from yaml-cpp's events rather than from its nodes: nodes of a hostile file can
// contain themselves, and YAML::LoadAll makes documents without end of one that begins with a
// comma.
#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <map>
#include <optional>
#include <sstream>

#include "core/check.h"
#include "core/config.h"

namespace quietformer {
namespace {

using Kind = ConfigValue::Kind;

constexpr int kMaxNodes = 10000;
constexpr std::size_t kMaxDepth = 32;

// Strict UTF-8 (RFC 3629): no overlong forms, surrogates or values above U+10FFFF; no NUL.
bool valid_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const unsigned char lead = static_cast<unsigned char>(text[i]);
    if (lead == 0) return false;
    const int more = lead < 0x80                   ? 0
                     : lead >= 0xC2 && lead < 0xE0 ? 1
                     : lead >= 0xE0 && lead < 0xF0 ? 2
                     : lead >= 0xF0 && lead < 0xF5 ? 3
                                                   : -1;
    if (more < 0 || i + static_cast<std::size_t>(more) >= text.size()) return false;
    for (int k = 1; k <= more; ++k) {
      const unsigned char c = static_cast<unsigned char>(text[i + k]);
      if ((c & 0xC0) != 0x80) return false;
      if (k == 1 && ((lead == 0xE0 && c < 0xA0) || (lead == 0xED && c > 0x9F) ||
                     (lead == 0xF0 && c < 0x90) || (lead == 0xF4 && c > 0x8F)))
        return false;
    }
    i += static_cast<std::size_t>(more) + 1;
  }
  return true;
}

int count_nodes(const ConfigValue& value) {
  int nodes = 1;
  for (const ConfigValue& item : value.items) nodes += count_nodes(item);
  for (const auto& field : value.fields) nodes += count_nodes(field.second);
  return nodes;
}

// The tree of one document. Open lists and maps lie on a stack; a finished value goes into the
// innermost one.
class TreeBuilder : public YAML::EventHandler {
 public:
  explicit TreeBuilder(const std::string& name) : name_(name) {}

  ConfigValue take() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark&) override {
    if (begun_) throw InputError(fmt::format("{}: several YAML documents, expected one", name_));
    begun_ = true;
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    finish({make(Kind::null, mark), anchor, {}, line_of(mark)});
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& text) override {
    ConfigValue value = make(Kind::scalar, mark);
    value.text = text;
    value.quoted = tag == "!";
    finish({std::move(value), anchor, {}, line_of(mark)});
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    const auto found = anchors_.find(anchor);
    if (found == anchors_.end())
      throw InputError(fmt::format("{}: an alias inside of what it stands for", where(mark)));
    spend(count_nodes(found->second));
    finish({found->second, YAML::NullAnchor, {}, line_of(mark)});
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(Kind::list, mark, anchor);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(Kind::map, mark, anchor);
  }
  void OnMapEnd() override { close(); }

 private:
  struct Key {
    std::string text;
    int line = 0;
  };
  struct Open {
    ConfigValue value;
    YAML::anchor_t anchor;
    std::optional<Key> key;  // of a map: read, its value is to come
    int line;
  };

  static int line_of(const YAML::Mark& mark) { return mark.line + 1; }
  std::string where(const YAML::Mark& mark) const {
    return mark.is_null() ? name_ : fmt::format("{}:{}", name_, line_of(mark));
  }
  void spend(int nodes) {
    budget_ -= nodes;
    if (budget_ < 0) throw InputError(fmt::format("{}: more than {} values", name_, kMaxNodes));
  }
  ConfigValue make(Kind kind, const YAML::Mark& mark) {
    spend(1);
    ConfigValue value;
    value.kind = kind;
    value.where = where(mark);
    return value;
  }
  void open(Kind kind, const YAML::Mark& mark, YAML::anchor_t anchor) {
    if (open_.size() == kMaxDepth)
      throw InputError(fmt::format("{}: lists and maps more than {} deep", where(mark), kMaxDepth));
    open_.push_back({make(kind, mark), anchor, {}, line_of(mark)});
  }
  void close() {
    Open done = std::move(open_.back());
    open_.pop_back();
    finish(std::move(done));
  }
  void finish(Open done) {
    if (done.anchor != YAML::NullAnchor) anchors_[done.anchor] = done.value;
    if (open_.empty()) {
      root_ = std::move(done.value);
    } else if (open_.back().value.kind == Kind::list) {
      open_.back().value.items.push_back(std::move(done.value));
    } else {
      add_to_map(open_.back(), std::move(done));
    }
  }
  void add_to_map(Open& map, Open done) {
    if (!map.key) {
      if (done.value.kind != Kind::scalar)
        throw InputError(fmt::format("{}: a key must be a plain word", map.value.where));
      if (map.value.find(done.value.text) != nullptr)
        throw InputError(
            fmt::format("{}:{}: {}: key given twice", name_, done.line, done.value.text));
      map.key = Key{std::move(done.value.text), done.line};
      return;
    }
    done.value.where = fmt::format("{}:{}", name_, map.key->line);
    map.value.fields.emplace_back(std::move(map.key->text), std::move(done.value));
    map.key.reset();
  }

  const std::string& name_;
  bool begun_ = false;
  int budget_ = kMaxNodes;
  ConfigValue root_;
  std::vector<Open> open_;
  std::map<YAML::anchor_t, ConfigValue> anchors_;
};

void emit(YAML::Emitter& out, const ConfigValue& value, int depth) {
  switch (value.kind) {
    case Kind::null:
      out << YAML::Null;
      break;
    case Kind::scalar:
      if (value.quoted) out << YAML::DoubleQuoted;
      out << value.text;
      break;
    case Kind::list:
      out << YAML::Flow << YAML::BeginSeq;
      for (const ConfigValue& item : value.items) emit(out, item, depth + 1);
      out << YAML::EndSeq;
      break;
    case Kind::map:
      if (depth >= 2) out << YAML::Flow;
      out << YAML::BeginMap;
      for (const auto& [key, item] : value.fields) {
        out << YAML::Key << key << YAML::Value;
        emit(out, item, depth + 1);
      }
      out << YAML::EndMap;
      break;
  }
}

}  // namespace

ConfigValue parse_yaml(std::string_view text, const std::string& name) {
  if (!valid_utf8(text))
    throw InputError(fmt::format("{}: not a text file (expected YAML in UTF-8)", name));
  try {
    std::istringstream stream{std::string(text)};
    YAML::Parser parser(stream);
    TreeBuilder tree(name);
    while (parser.HandleNextDocument(tree)) {
    }
    return tree.take();
  } catch (const YAML::Exception& error) {
    throw InputError(
        fmt::format("{}:{}: not valid YAML: {}", name, error.mark.line + 1, error.msg));
  }
}

std::string to_yaml(const ConfigValue& root) {
  YAML::Emitter out;
  emit(out, root, 0);
  return std::string(out.c_str()) + "\n";
}

}  // namespace quietformer
