#include "train/convert.h"

#include <fmt/format.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/check.h"
#include "train/checkpoint.h"

namespace quietformer {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

bool is_mask(std::string_view token) {
  return token == "[MASK]" || token == "<mask>";
}

const std::string* file_of(const ModelSource& model, const char* name) {
  const auto found = model.files.find(name);
  return found == model.files.end() ? nullptr : &found->second;
}

// {"added_tokens": [{"id": 103, "content": "[MASK]", ...}, ...], ...}
std::optional<std::int64_t> in_tokenizer_json(const std::string& text) {
  const Json json = Json::parse(text, nullptr, false);
  if (!json.is_object() || !json.contains("added_tokens") || !json["added_tokens"].is_array())
    return std::nullopt;
  for (const Json& token : json["added_tokens"])
    if (token.is_object() && token.contains("content") && token["content"].is_string() &&
        is_mask(token["content"].get<std::string>()) && token.contains("id") &&
        token["id"].is_number_integer())
      return token["id"].get<std::int64_t>();
  return std::nullopt;
}

// {"<mask>": 50264, ...}
std::optional<std::int64_t> in_vocab_json(const std::string& text) {
  const Json json = Json::parse(text, nullptr, false);
  for (const char* token : {"<mask>", "[MASK]"})
    if (json.is_object() && json.contains(token) && json[token].is_number_integer())
      return json[token].get<std::int64_t>();
  return std::nullopt;
}

// A token per line, from 0.
std::optional<std::int64_t> in_vocab_txt(const std::string& text) {
  std::istringstream lines(text);
  std::int64_t id = 0;
  for (std::string line; std::getline(lines, line); ++id) {
    if (line.ends_with('\r')) line.pop_back();
    if (is_mask(line)) return id;
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::int64_t> mask_token_of(const ModelSource& model) {
  std::optional<std::int64_t> id;
  if (const std::string* text = file_of(model, "tokenizer.json")) id = in_tokenizer_json(*text);
  if (const std::string* text = file_of(model, "vocab.json"); text && !id)
    id = in_vocab_json(*text);
  if (const std::string* text = file_of(model, "vocab.txt"); text && !id) id = in_vocab_txt(*text);
  return id;
}

void write_native(const Context& ctx, const std::string& path, const ModelSource& model) {
  if (fs::exists(path)) throw InputError(fmt::format("{}: exists, expected a new file", path));
  validate(model.config);
  Checkpoint checkpoint;
  checkpoint.text["config"] = to_yaml(model.config);
  checkpoint.integers["step"] = 0;
  if (!model.trained_here) checkpoint.integers[std::string(kConverted)] = 1;
  for (auto& [name, text] : texts_of(model)) checkpoint.text[name] = std::move(text);
  for (const SourceParameter& parameter : model.parameters) {
    DeferredTensor tensor{"parameters/" + parameter.name, parameter.dtype, parameter.shape,
                          [&ctx, &parameter](void* out) { parameter.read(ctx, out); }};
    if (parameter.read_rows)
      tensor.write_rows = [&ctx, &parameter](std::int64_t first, std::int64_t rows, void* out) {
        parameter.read_rows(ctx, first, rows, out);
      };
    checkpoint.deferred.push_back(std::move(tensor));
  }
  write_checkpoint(path, checkpoint);
}

}  // namespace quietformer
