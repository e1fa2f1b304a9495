#include "train/safetensors_header.h"

#include <fmt/format.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "core/check.h"
#include "core/log.h"

namespace quietformer {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kMetadata = "__metadata__";

// Reads the header's fixed form event by event: a document tree would lose duplicate keys, and a
// hostile file could make it large. Level 1 holds tensors, level 2 their fields, level 3 lists.
class HeaderSax : public nlohmann::json_sax<Json> {
 public:
  HeaderSax(SafetensorsHeader& header, const std::string& path) : header_(header), path_(path) {}

  bool start_object(std::size_t) override {
    if (level_ >= 2 || in_list_) refuse_value("an object");
    ++level_;
    if (level_ == 2 && !in_metadata_) {
      entry_ = {};
      entry_.name = name_;
      seen_.clear();
      offsets_.clear();
    }
    return true;
  }

  bool end_object() override {
    if (level_ == 2 && !in_metadata_) finish_entry();
    if (level_ == 2) in_metadata_ = false;
    --level_;
    return true;
  }

  bool key(string_t& key) override {
    if (level_ == 1) {
      name_ = key;
      if (!names_.insert(key).second) refuse_here("given twice");
      in_metadata_ = key == kMetadata;
    } else if (in_metadata_) {
      field_ = key;
      if (header_.metadata.contains(key)) refuse_here("key given twice");
    } else {
      field_ = key;
      if (key != "dtype" && key != "shape" && key != "data_offsets")
        refuse_here(fmt::format("unknown field {}", one_line(key, 40)));
      if (!seen_.insert(key).second) refuse_here(fmt::format("{} given twice", key));
    }
    return true;
  }

  bool start_array(std::size_t) override {
    if (level_ != 2 || in_list_ || in_metadata_ || field_ == "dtype") refuse_value("a list");
    in_list_ = true;
    return true;
  }

  bool end_array() override {
    in_list_ = false;
    return true;
  }

  bool string(string_t& value) override {
    if (level_ == 2 && in_metadata_) {
      header_.metadata.emplace(field_, value);
    } else if (level_ == 2 && !in_list_ && field_ == "dtype") {
      entry_.dtype = value;
    } else {
      refuse_value("text");
    }
    return true;
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (!in_list_) refuse_value("a number");
    if (field_ == "shape") {
      if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
        refuse_here(fmt::format("shape: {} is too large", value));
      entry_.shape.push_back(static_cast<std::int64_t>(value));
    } else {
      offsets_.push_back(value);
    }
    return true;
  }

  bool null() override { refuse_value("null"); }
  bool boolean(bool) override { refuse_value("true or false"); }
  bool number_integer(number_integer_t) override { refuse_value("a negative number"); }
  bool number_float(number_float_t, const string_t&) override {
    refuse_value("a number that is not an unsigned 64-bit integer");
  }
  bool binary(binary_t&) override { refuse_value("binary data"); }

  bool parse_error(std::size_t position, const std::string&, const Json::exception&) override {
    refuse(path_, fmt::format("safetensors header is not JSON at byte {}", position));
  }

 private:
  [[noreturn]] void refuse_here(std::string_view what) const {
    throw InputError(fmt::format("{}: tensor {}: {}", path_, one_line(name_, 100), what));
  }
  [[noreturn]] void refuse_value(std::string_view found) const {
    if (level_ == 0)
      refuse(path_, fmt::format("safetensors header is {}, expected an object", found));
    if (level_ == 1)
      refuse_here(fmt::format("{}, expected an object with dtype, shape, data_offsets", found));
    if (in_metadata_) refuse(path_, fmt::format("{}: {}, expected text", kMetadata, found));
    refuse_here(fmt::format("{}: {}, expected {}", field_, found,
                            field_ == "dtype" ? "text" : "a list of unsigned integers"));
  }
  void finish_entry() {
    for (const char* field : {"dtype", "shape", "data_offsets"})
      if (!seen_.contains(field)) refuse_here(fmt::format("{} is missing", field));
    if (offsets_.size() != 2)
      refuse_here(fmt::format("data_offsets: {} numbers, expected 2", offsets_.size()));
    entry_.begin = offsets_[0];
    entry_.end = offsets_[1];
    header_.entries.push_back(std::move(entry_));
  }

  SafetensorsHeader& header_;
  const std::string& path_;
  int level_ = 0;
  bool in_list_ = false;
  bool in_metadata_ = false;
  std::string name_, field_;
  std::set<std::string> names_, seen_;
  SafetensorsEntry entry_;
  std::vector<std::uint64_t> offsets_;
};

}  // namespace

void refuse(const std::string& path, std::string_view what) {
  throw InputError(fmt::format("{}: {}", path, what));
}

SafetensorsHeader parse_safetensors_header(std::string_view json, const std::string& path) {
  SafetensorsHeader header;
  HeaderSax sax(header, path);
  // The format allows spaces after the object but nothing before it.
  if (!json.starts_with('{'))
    refuse(path, "not a safetensors file: its header does not begin with '{'");
  Json::sax_parse(json.begin(), json.end(), &sax);
  return header;
}

std::string format_safetensors_header(const SafetensorsHeader& header, const std::string& path) {
  std::set<std::string> names;
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  if (!header.metadata.empty()) json[std::string(kMetadata)] = header.metadata;
  for (const SafetensorsEntry& entry : header.entries) {
    if (entry.name == kMetadata || !names.insert(entry.name).second)
      refuse(path, fmt::format("tensor {}: name given twice or reserved", entry.name));
    json[entry.name] = {
        {"dtype", entry.dtype}, {"shape", entry.shape}, {"data_offsets", {entry.begin, entry.end}}};
  }
  try {
    return json.dump();
  } catch (const nlohmann::ordered_json::type_error&) {
    refuse(path, "a tensor's name or the metadata is not UTF-8");
  }
}

}  // namespace quietformer
