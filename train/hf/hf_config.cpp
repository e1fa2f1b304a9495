#include "train/hf/hf_config.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "core/check.h"
#include "core/file.h"
#include "core/log.h"

namespace quietformer {
namespace {

using Json = nlohmann::json;
using Kind = ConfigValue::Kind;

constexpr std::uint64_t kMaxInteger = std::uint64_t{1} << 40;
constexpr int kMaxDepth = 16;

bool is_size(const Json& value) {
  return value.is_number_unsigned() && value.get<std::uint64_t>() != 0 &&
         value.get<std::uint64_t>() <= kMaxInteger;
}

Json to_json(const ConfigValue& value) {
  switch (value.kind) {
    case Kind::null:
      return nullptr;
    case Kind::list: {
      Json list = Json::array();
      for (const ConfigValue& item : value.items) list.push_back(to_json(item));
      return list;
    }
    case Kind::map: {
      Json map = Json::object();
      for (const auto& [key, item] : value.fields) map[key] = to_json(item);
      return map;
    }
    case Kind::scalar:
      break;
  }
  if (value.quoted) return value.text;
  const Json parsed = Json::parse(value.text, nullptr, false);
  return parsed.is_number() || parsed.is_boolean() ? parsed : Json(value.text);
}

ConfigValue from_json(const Json& value, const std::string& where, int depth) {
  if (depth > kMaxDepth) throw InputError(fmt::format("{}: more than {} deep", where, kMaxDepth));
  ConfigValue result;
  result.where = where;
  if (value.is_object()) {
    result.kind = Kind::map;
    for (const auto& [key, item] : value.items())
      result.fields.emplace_back(key, from_json(item, where, depth + 1));
  } else if (value.is_array()) {
    result.kind = Kind::list;
    for (const Json& item : value) result.items.push_back(from_json(item, where, depth + 1));
  } else if (!value.is_null()) {
    result.kind = Kind::scalar;
    result.text = value.is_string() ? value.get<std::string>() : value.dump();
  }
  return result;
}

}  // namespace

struct HfConfig::State {
  Json json = Json::object();
  const Json* find(std::string_view key) const {
    const auto found = json.find(std::string(key));
    return found == json.end() || found->is_null() ? nullptr : &*found;
  }
};

HfConfig::HfConfig() : path_("config.json"), state_(std::make_shared<State>()) {}

HfConfig::HfConfig(std::string_view json, std::string path) : path_(std::move(path)) {
  auto state = std::make_shared<State>();
  try {
    state->json = Json::parse(json);
  } catch (const Json::exception& error) {
    throw InputError(fmt::format("{}: not JSON: {}", path_, one_line(error.what(), 120)));
  }
  if (!state->json.is_object()) throw InputError(fmt::format("{}: expected a JSON object", path_));
  state_ = std::move(state);
}

HfConfig HfConfig::load(const std::string& path) {
  return HfConfig(read_file(path, 1 << 20), path);
}

HfConfig::State& HfConfig::change() {
  auto copy = std::make_shared<State>(*state_);
  State& state = *copy;
  state_ = std::move(copy);
  return state;
}

bool HfConfig::is_null(std::string_view key) const {
  return state_->find(key) == nullptr;
}

bool HfConfig::is_empty() const {
  return state_->json.empty();
}

void HfConfig::refuse(std::string_view key, std::string_view expected) const {
  const Json* value = state_->find(key);
  throw InputError(fmt::format("{}: {}: {}, expected {}", path_, key,
                               one_line(value == nullptr ? "null" : value->dump(-1, ' ', true), 60),
                               expected));
}

std::int64_t HfConfig::integer(std::string_view key) const {
  if (is_null(key)) throw InputError(fmt::format("{}: {}: missing", path_, key));
  const Json& value = *state_->find(key);
  if (!is_size(value)) refuse(key, "a positive integer");
  return value.get<std::int64_t>();
}

std::int64_t HfConfig::integer(std::string_view key, std::int64_t otherwise) const {
  return is_null(key) ? otherwise : integer(key);
}

std::int64_t HfConfig::id(std::string_view key, std::int64_t otherwise) const {
  if (is_null(key)) return otherwise;
  const Json& value = *state_->find(key);
  if (value.is_number_integer() && value == 0) return 0;
  if (!is_size(value)) refuse(key, "0 or a positive integer");
  return value.get<std::int64_t>();
}

double HfConfig::number(std::string_view key, double otherwise) const {
  if (is_null(key)) return otherwise;
  if (!state_->find(key)->is_number()) refuse(key, "a number");
  return state_->find(key)->get<double>();
}

bool HfConfig::flag(std::string_view key, bool otherwise) const {
  if (is_null(key)) return otherwise;
  if (!state_->find(key)->is_boolean()) refuse(key, "true or false");
  return state_->find(key)->get<bool>();
}

std::string HfConfig::text(std::string_view key, const std::string& otherwise) const {
  if (is_null(key)) return otherwise;
  if (!state_->find(key)->is_string()) refuse(key, "text");
  return state_->find(key)->get<std::string>();
}

HfConfig HfConfig::object(std::string_view key) const {
  HfConfig inner;
  inner.path_ = fmt::format("{}: {}", path_, key);
  if (is_null(key)) return inner;
  if (!state_->find(key)->is_object()) refuse(key, "an object");
  inner.change().json = *state_->find(key);
  return inner;
}

void HfConfig::expect_off(std::string_view key) const {
  if (flag(key, false)) refuse(key, "false: not supported");
}

void HfConfig::set(std::string_view key, std::int64_t value) {
  QF_EXPECTS(value >= 0);  // which a parser makes unsigned, too
  change().json[std::string(key)] = static_cast<std::uint64_t>(value);
}
void HfConfig::set(std::string_view key, double value) {
  change().json[std::string(key)] = value;
}
void HfConfig::set(std::string_view key, bool value) {
  change().json[std::string(key)] = value;
}
void HfConfig::set(std::string_view key, const char* value) {
  change().json[std::string(key)] = value;
}
void HfConfig::set(std::string_view key, const std::string& value) {
  change().json[std::string(key)] = value;
}
void HfConfig::set_list(std::string_view key, const std::string& only) {
  change().json[std::string(key)] = Json::array({only});
}
void HfConfig::set_null(std::string_view key) {
  change().json[std::string(key)] = nullptr;
}
void HfConfig::set(std::string_view key, const HfConfig& value) {
  change().json[std::string(key)] = value.state_->json;
}
void HfConfig::set(std::string_view key, const ConfigValue& tree) {
  change().json[std::string(key)] = to_json(tree);
}
void HfConfig::erase(std::string_view key) {
  change().json.erase(std::string(key));
}

ConfigValue HfConfig::tree(std::string_view key) const {
  const std::string where = fmt::format("{}: {}", path_, key);
  const Json* value = state_->find(key);
  return from_json(value == nullptr ? Json() : *value, where, 0);
}

ConfigValue HfConfig::scalar(std::string_view dotted_key) const {
  const Json* value = &state_->json;
  for (std::string_view rest = dotted_key; value != nullptr;) {
    const std::size_t dot = rest.find('.');
    const auto found =
        value->is_object() ? value->find(std::string(rest.substr(0, dot))) : value->end();
    value = found == value->end() ? nullptr : &*found;
    if (dot == std::string_view::npos) break;
    rest.remove_prefix(dot + 1);
  }
  if (value == nullptr || value->is_null() || value->is_structured())
    throw InputError(fmt::format("{}: {}: {}", path_, dotted_key,
                                 value == nullptr || value->is_null()
                                     ? "missing"
                                     : "found a list or an object, expected one value"));
  return from_json(*value, path_, 0);
}

std::string HfConfig::dump() const {
  return state_->json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace quietformer
