#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <limits>
#include <map>

#include "core/check.h"
#include "core/file.h"
#include "core/log.h"
#include "data/tokenizer/json.h"
#include "data/tokenizer/spec.h"

namespace quietformer {
namespace {

namespace fs = std::filesystem;

enum Special : std::size_t { kBos, kEos, kUnknown, kPadding, kCls, kSep, kMask };
constexpr std::array<const char*, 7> kKeys{"bos_token", "eos_token", "unk_token", "pad_token",
                                           "cls_token", "sep_token", "mask_token"};

struct UsualName {
  std::string_view name;
  Special special;
};
constexpr std::array kUsualNames{
    UsualName{"<|endoftext|>", kBos}, UsualName{"<|endoftext|>", kEos},
    UsualName{"<s>", kBos},           UsualName{"<s>", kCls},
    UsualName{"</s>", kEos},          UsualName{"</s>", kSep},
    UsualName{"<unk>", kUnknown},     UsualName{"[UNK]", kUnknown},
    UsualName{"<pad>", kPadding},     UsualName{"[PAD]", kPadding},
    UsualName{"[CLS]", kCls},         UsualName{"[SEP]", kSep},
    UsualName{"<mask>", kMask},       UsualName{"[MASK]", kMask},
};

JsonNode read_if_there(const std::string& path) {
  return fs::exists(path) ? read_json(path) : JsonNode();
}

void read_names(const Json& json, std::array<std::string, 7>& names) {
  for (std::size_t i = 0; i < kKeys.size(); ++i) {
    const Json value = json[kKeys[i]];
    if (value.is_null() || !names[i].empty()) continue;
    names[i] = value.is_map() ? value["content"].text() : value.text();
  }
}

/// Lines without their ends; the last one need not have any.
std::vector<std::string> read_lines(const std::string& path) {
  const std::string text = read_file(path, std::size_t{1} << 28);
  std::vector<std::string> lines;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    lines.push_back(text.substr(at, end - at));
    if (lines.back().ends_with('\r')) lines.back().pop_back();
    at = end + 1;
  }
  return lines;
}

void read_merges_file(const std::string& path, ModelSpec& model) {
  model.merges_where = path;
  const std::vector<std::string> lines = read_lines(path);
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const std::string& line = lines[i];
    if (line.starts_with("#version")) continue;
    const std::size_t space = line.find(' ');
    if (space == std::string::npos || line.find(' ', space + 1) != std::string::npos)
      throw InputError(fmt::format("{}:{}: found '{}', expected two tokens with a space between",
                                   path, i + 1, one_line(line, 60)));
    model.merges.emplace_back(line.substr(0, space), line.substr(space + 1));
  }
}

/// tokenizer_config.json and its companions, beside a vocabulary.
class Companions {
 public:
  Companions(const std::string& directory, TokenizerSpec& spec)
      : spec_(spec),
        config_root_(read_if_there(directory + "/tokenizer_config.json")),
        added_root_(read_if_there(directory + "/added_tokens.json")),
        config_(config_root_, directory + "/tokenizer_config.json"),
        added_(added_root_, directory + "/added_tokens.json") {
    for (const auto& [token, id] : spec.model.vocab) ids_.emplace(token, id);
  }

  Json config(std::string_view key) const { return config_[key]; }

  /// The id of the token with this part to play; its usual name where the files do not say.
  std::int32_t around(Special special, const char* otherwise) {
    std::string& name = spec_.special[special];
    if (name.empty()) name = otherwise;
    const auto found = ids_.find(name);
    if (found == ids_.end())
      throw InputError(fmt::format("{}: no token '{}', which is the {}", spec_.model.where,
                                   one_line(name, 60), kKeys[special]));
    return found->second;
  }

  /// `usual`: the special tokens of the family that are added when the vocabulary has them.
  void add_tokens(std::initializer_list<std::pair<Special, const char*>> usual) {
    if (const Json listed = config_["added_tokens_decoder"]; !listed.is_null())
      for (const Json& entry : listed.values()) add(read_added_token(entry, number(entry)));
    if (!added_.is_null())
      for (const Json& entry : added_.values()) {
        AddedToken token;
        token.content = entry.node().key;
        token.id = static_cast<std::int32_t>(
            entry.integer(0, std::numeric_limits<std::int32_t>::max() - 1));
        add(token);
      }
    for (const auto& [special, name] : usual) {
      AddedToken token;
      token.content = spec_.special[special].empty() ? name : spec_.special[special];
      const auto found = ids_.find(token.content);
      if (found == ids_.end()) continue;
      token.id = found->second;
      token.special = true;
      token.normalized = false;
      token.lstrip = special == kMask && token.content == "<mask>";  // RoBERTa's
      add(token);
    }
  }

 private:
  void add(const AddedToken& token) {
    const auto same = [&](const AddedToken& other) { return other.content == token.content; };
    if (std::any_of(spec_.added.begin(), spec_.added.end(), same)) return;
    spec_.added.push_back(token);
    ids_.emplace(token.content, token.id);
  }
  static std::int32_t number(const Json& entry) {
    const std::string& key = entry.node().key;
    std::int32_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size() || id < 0)
      throw InputError(entry.where() + ": expected an id as the key");
    return id;
  }

  TokenizerSpec& spec_;
  JsonNode config_root_, added_root_;
  Json config_, added_;
  std::map<std::string, std::int32_t, std::less<>> ids_;
};

DecoderStep decoder_step(DecoderStep::Kind kind) {
  DecoderStep step;
  step.kind = kind;
  step.pattern = "##";
  return step;
}

// transformers' BertTokenizer.
void read_bert(const std::string& directory, TokenizerSpec& spec) {
  const std::vector<std::string> lines = read_lines(spec.path);
  for (std::size_t i = 0; i < lines.size(); ++i)
    spec.model.vocab.emplace_back(lines[i], static_cast<std::int32_t>(i));
  spec.model.kind = ModelSpec::Kind::wordpiece;
  spec.model.prefix = "##";
  Companions companions(directory, spec);
  NormalizerStep step;
  step.lowercase = companions.config("do_lower_case").flag(true);
  step.strip_accents = companions.config("strip_accents").flag(step.lowercase);
  step.spaces_around_cjk = companions.config("tokenize_chinese_chars").flag(true);
  spec.normalizer = {step};
  spec.pre_tokenizer.kind = PreTokenizerSpec::Kind::bert;
  companions.add_tokens({{kPadding, "[PAD]"},
                         {kUnknown, "[UNK]"},
                         {kCls, "[CLS]"},
                         {kSep, "[SEP]"},
                         {kMask, "[MASK]"}});
  spec.before = {companions.around(kCls, "[CLS]")};
  spec.after = {companions.around(kSep, "[SEP]")};
  if (!spec.special[kUnknown].empty()) spec.model.unknown = spec.special[kUnknown];
  spec.decoder = {decoder_step(DecoderStep::Kind::wordpiece)};
}

// transformers' GPT2Tokenizer and RobertaTokenizer. The files look alike: the class is named in
// tokenizer_config.json, or the vocabulary has <s> and </s>.
void read_byte_level(const std::string& directory, TokenizerSpec& spec) {
  const JsonNode root = read_json(spec.path);
  read_vocab(Json(root, spec.path), spec.model);
  read_merges_file(directory + "/merges.txt", spec.model);
  Companions companions(directory, spec);
  const auto has = [&](std::string_view token) {
    return std::any_of(spec.model.vocab.begin(), spec.model.vocab.end(),
                       [&](const auto& entry) { return entry.first == token; });
  };
  const std::string name = companions.config("tokenizer_class").text("");
  const bool roberta = name.empty() ? has("<s>") && has("</s>") : name.starts_with("Roberta");
  if (!name.empty() && !roberta && !name.starts_with("GPT2"))
    companions.config("tokenizer_class").fail("a class of GPT2 or Roberta beside vocab.json");
  spec.pre_tokenizer.kind = PreTokenizerSpec::Kind::byte_level;
  spec.pre_tokenizer.add_prefix_space = companions.config("add_prefix_space").flag(false);
  spec.decoder = {decoder_step(DecoderStep::Kind::byte_level)};
  if (roberta) {
    companions.add_tokens({{kBos, "<s>"},
                           {kPadding, "<pad>"},
                           {kEos, "</s>"},
                           {kUnknown, "<unk>"},
                           {kCls, "<s>"},
                           {kSep, "</s>"},
                           {kMask, "<mask>"}});
    spec.before = {companions.around(kCls, "<s>")};
    spec.after = {companions.around(kSep, "</s>")};
    return;
  }
  companions.add_tokens({{kBos, "<|endoftext|>"},
                         {kEos, "<|endoftext|>"},
                         {kUnknown, "<|endoftext|>"},
                         {kPadding, "<|endoftext|>"}});
  if (companions.config("add_bos_token").flag(false))
    spec.before = {companions.around(kBos, "<|endoftext|>")};
}

}  // namespace

void read_special_names(const std::string& directory, TokenizerSpec& spec) {
  const std::string folder = directory.empty() ? "." : directory;
  for (const char* name : {"/tokenizer_config.json", "/special_tokens_map.json"}) {
    const JsonNode root = read_if_there(folder + name);
    const Json json(root, folder + name);
    if (!json.is_null()) read_names(json, spec.special);
  }
}

void guess_special_names(TokenizerSpec& spec) {
  for (const UsualName& usual : kUsualNames)
    for (const AddedToken& token : spec.added)
      if (token.special && token.content == usual.name && spec.special[usual.special].empty())
        spec.special[usual.special] = token.content;
}

TokenizerSpec read_vocab_files(const std::string& directory) {
  TokenizerSpec spec;
  const bool byte_level = fs::exists(directory + "/vocab.json");
  spec.path = directory + (byte_level ? "/vocab.json" : "/vocab.txt");
  if (!byte_level && !fs::exists(spec.path))
    throw InputError(directory +
                     ": no tokenizer, expected tokenizer.json, vocab.json with merges.txt, or "
                     "vocab.txt");
  spec.model.where = spec.path;
  spec.around_where = directory + "/tokenizer_config.json";
  spec.has_decoder = true;
  read_special_names(directory, spec);
  byte_level ? read_byte_level(directory, spec) : read_bert(directory, spec);
  return spec;
}

}  // namespace quietformer
