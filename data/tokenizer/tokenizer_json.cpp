#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <limits>

#include "core/check.h"
#include "data/tokenizer/json.h"
#include "data/tokenizer/spec.h"
#include "data/tokenizer/utf8.h"

namespace quietformer {
namespace {

constexpr std::int64_t kMostIds = std::numeric_limits<std::int32_t>::max();

std::int32_t read_id(const Json& json) {
  return static_cast<std::int32_t>(json.integer(0, kMostIds - 1));
}

// One character, as a text.
std::string read_character(const Json& json, std::string_view otherwise) {
  const std::string text = json.text(otherwise);
  if (text.empty() || character_at(text, 0).bytes != text.size()) json.fail("one character");
  return text;
}

std::string read_pattern(const Json& json) {
  const Json pattern = json["String"];
  if (pattern.is_null()) json.fail("{\"String\": ...} (regular expressions are not supported)");
  if (pattern.text().empty()) pattern.fail("a text of one character or more");
  return pattern.text();
}

/// The steps of a section that is one step or a Sequence of them.
std::vector<Json> steps_of(const Json& json, std::string_view list) {
  if (json.is_null()) return {};
  if (json["type"].text() != "Sequence") return {json};
  std::vector<Json> steps;
  for (const Json& step : json[list].values())
    for (const Json& inner : steps_of(step, list)) steps.push_back(inner);
  return steps;
}

/// Steps in a row could make a text as long as memory allows, and longer.
template <class Step>
void expect_modest(const Json& json, const std::vector<Step>& steps) {
  constexpr double kMostGrowth = 64;
  double growth = 1;
  for (const Step& step : steps)
    if (step.kind == Step::Kind::replace)
      growth *= std::max(1.0, double(step.content.size()) / double(step.pattern.size()));
  if (growth > kMostGrowth) json.fail("steps that make a text at most 64 times as long");
}

NormalizerStep read_normalizer_step(const Json& json) {
  const std::string& type = json["type"].text();
  NormalizerStep step;
  if (type == "BertNormalizer") {
    step.kind = NormalizerStep::Kind::bert;
    step.clean = json["clean_text"].flag(true);
    step.spaces_around_cjk = json["handle_chinese_chars"].flag(true);
    step.lowercase = json["lowercase"].flag(true);
    step.strip_accents = json["strip_accents"].flag(step.lowercase);
  } else if (type == "Prepend") {
    step.kind = NormalizerStep::Kind::prepend;
    step.content = json["prepend"].text();
  } else if (type == "Replace") {
    step.kind = NormalizerStep::Kind::replace;
    step.pattern = read_pattern(json["pattern"]);
    step.content = json["content"].text();
  } else {
    json["type"].fail("BertNormalizer, Prepend, Replace or Sequence");
  }
  return step;
}

PrependScheme read_scheme(const Json& json) {
  const bool always = json["add_prefix_space"].flag(true);  // how older files say it
  const Json scheme = json["prepend_scheme"];
  const std::string name = scheme.text(always ? "always" : "never");
  if (name == "always") return PrependScheme::always;
  if (name == "first") return PrependScheme::first;
  if (name != "never") scheme.fail("always, first or never");
  return PrependScheme::never;
}

PreTokenizerSpec read_pre_tokenizer(const Json& json) {
  PreTokenizerSpec spec;
  const std::vector<Json> steps = steps_of(json, "pretokenizers");
  if (steps.empty()) return spec;
  if (steps.size() > 1) json["pretokenizers"].fail("one step (more are not supported)");
  const Json& step = steps.front();
  const std::string& type = step["type"].text();
  using Kind = PreTokenizerSpec::Kind;
  if (type == "ByteLevel") {
    spec.kind = Kind::byte_level;
    spec.add_prefix_space = step["add_prefix_space"].flag(true);
    spec.use_regex = step["use_regex"].flag(true);
  } else if (type == "BertPreTokenizer") {
    spec.kind = Kind::bert;
  } else if (type == "Whitespace") {
    spec.kind = Kind::whitespace;
  } else if (type == "WhitespaceSplit") {
    spec.kind = Kind::whitespace_split;
  } else if (type == "Metaspace") {
    spec.kind = Kind::metaspace;
    spec.replacement = read_character(step["replacement"], "\u2581");
    spec.prepend = read_scheme(step);
    spec.split = step["split"].flag(true);
  } else {
    step["type"].fail("ByteLevel, BertPreTokenizer, Whitespace, WhitespaceSplit or Metaspace");
  }
  return spec;
}

DecoderStep read_decoder_step(const Json& json) {
  const std::string& type = json["type"].text();
  using Kind = DecoderStep::Kind;
  DecoderStep step;
  if (type == "ByteLevel") {
    step.kind = Kind::byte_level;
  } else if (type == "WordPiece") {
    step.kind = Kind::wordpiece;
    step.pattern = json["prefix"].text("##");
    step.cleanup = json["cleanup"].flag(true);
  } else if (type == "Metaspace") {
    step.kind = Kind::metaspace;
    step.content = read_character(json["replacement"], "\u2581");
    step.drop_first = read_scheme(json) != PrependScheme::never;
  } else if (type == "Replace") {
    step.kind = Kind::replace;
    step.pattern = read_pattern(json["pattern"]);
    step.content = json["content"].text();
  } else if (type == "ByteFallback") {
    step.kind = Kind::byte_fallback;
  } else if (type == "Fuse") {
    step.kind = Kind::fuse;
  } else if (type == "Strip") {
    step.kind = Kind::strip;
    step.content = read_character(json["content"], " ");
    step.start = json["start"].integer(0, kMostIds);
    step.stop = json["stop"].integer(0, kMostIds);
  } else {
    json["type"].fail(
        "ByteLevel, WordPiece, Metaspace, Replace, ByteFallback, Fuse, Strip or Sequence");
  }
  return step;
}

/// The id of ["[CLS]", 101].
std::int32_t read_pair_id(const Json& json) {
  if (!json.is_list() || json.values().size() != 2) json.fail("a token and its id");
  return read_id(json.values()[1]);
}

void read_template(const Json& json, TokenizerSpec& spec) {
  const Json single = json["single"];
  bool text_seen = false;
  std::vector<std::int32_t> before, after;
  for (const Json& part : single.values()) {
    if (const Json sequence = part["Sequence"]; !sequence.is_null()) {
      if (text_seen || sequence["id"].text() != "A") single.fail("the sequence A once");
      text_seen = true;
      continue;
    }
    const std::string& name = part["SpecialToken"]["id"].text();
    for (const Json& id : json["special_tokens"][name]["ids"].values())
      (text_seen ? after : before).push_back(read_id(id));
  }
  if (!text_seen) single.fail("the sequence A once");
  spec.before.insert(spec.before.begin(), before.begin(), before.end());
  spec.after.insert(spec.after.end(), after.begin(), after.end());
}

void read_post_processor(const Json& json, TokenizerSpec& spec) {
  spec.around_where = json.where();
  for (const Json& step : steps_of(json, "processors")) {
    const std::string& type = step["type"].text();
    if (type == "BertProcessing" || type == "RobertaProcessing") {
      spec.before.insert(spec.before.begin(), read_pair_id(step["cls"]));
      spec.after.push_back(read_pair_id(step["sep"]));
    } else if (type == "TemplateProcessing") {
      read_template(step, spec);
    } else if (type != "ByteLevel") {  // which trims offsets, and there are none here
      step["type"].fail(
          "ByteLevel, BertProcessing, RobertaProcessing, TemplateProcessing or Sequence");
    }
  }
}

void read_merges(const Json& json, ModelSpec& model) {
  model.merges_where = json.where();
  if (!json.is_list()) json.fail("a list");
  const std::vector<JsonNode>& merges = json.node().children;
  model.merges.reserve(merges.size());
  for (std::size_t i = 0; i < merges.size(); ++i) {
    const JsonNode& merge = merges[i];
    const std::size_t space = merge.text.find(' ');
    const bool one_text = merge.kind == JsonNode::Kind::text && space != std::string::npos &&
                          merge.text.find(' ', space + 1) == std::string::npos;
    const bool two_texts = merge.kind == JsonNode::Kind::list && merge.children.size() == 2 &&
                           merge.children[0].kind == JsonNode::Kind::text &&
                           merge.children[1].kind == JsonNode::Kind::text;
    if (one_text)
      model.merges.emplace_back(merge.text.substr(0, space), merge.text.substr(space + 1));
    else if (two_texts)
      model.merges.emplace_back(merge.children[0].text, merge.children[1].text);
    else
      json.values()[i].fail("two tokens, as \"a b\" or [\"a\", \"b\"]");
  }
}

void read_model(const Json& json, ModelSpec& model) {
  if (!json.is_map()) json.fail("an object");
  const Json vocab = json["vocab"];
  model.where = vocab.where();
  // Files of earlier versions name no type.
  const std::string type =
      json["type"].text(json["merges"].is_null() && vocab.is_map() ? "WordPiece" : "BPE");
  if (!json["unk_token"].is_null()) model.unknown = json["unk_token"].text();
  if (type == "BPE") {
    model.kind = ModelSpec::Kind::bpe;
    if (!json["dropout"].is_null()) json["dropout"].fail("null: merges are not left out at random");
    model.prefix = json["continuing_subword_prefix"].text("");
    model.suffix = json["end_of_word_suffix"].text("");
    model.fuse_unknown = json["fuse_unk"].flag(false);
    model.byte_fallback = json["byte_fallback"].flag(false);
    model.ignore_merges = json["ignore_merges"].flag(false);
    read_merges(json["merges"], model);
  } else if (type == "WordPiece") {
    model.kind = ModelSpec::Kind::wordpiece;
    model.prefix = json["continuing_subword_prefix"].text("##");
    if (const Json longest = json["max_input_chars_per_word"]; !longest.is_null())
      model.longest_word = longest.integer(0, kMostIds);
  } else {
    json["type"].fail("BPE or WordPiece");
  }
  read_vocab(vocab, model);
}

}  // namespace

AddedToken read_added_token(const Json& json, std::int32_t id) {
  AddedToken token;
  token.content = json["content"].text();
  token.id = id;
  token.single_word = json["single_word"].flag(false);
  token.lstrip = json["lstrip"].flag(false);
  token.rstrip = json["rstrip"].flag(false);
  token.special = json["special"].flag(false);
  token.normalized = json["normalized"].flag(!token.special);
  return token;
}

void read_vocab(const Json& json, ModelSpec& model) {
  if (!json.is_map()) json.fail("an object of tokens and ids");
  const std::vector<JsonNode>& tokens = json.node().children;
  model.vocab.reserve(tokens.size());
  for (const JsonNode& token : tokens) {
    const bool good =
        token.kind == JsonNode::Kind::integer && token.integer >= 0 && token.integer < kMostIds;
    if (!good) json[token.key].integer(0, kMostIds - 1);  // throws
    model.vocab.emplace_back(token.key, static_cast<std::int32_t>(token.integer));
  }
}

TokenizerSpec read_tokenizer_json(const std::string& path) {
  const JsonNode root = read_json(path);
  const Json json(root, path);
  if (!json.is_map()) json.fail("an object");
  TokenizerSpec spec;
  spec.path = path;
  read_model(json["model"], spec.model);
  if (!json["added_tokens"].is_null())
    for (const Json& token : json["added_tokens"].values())
      spec.added.push_back(read_added_token(token, read_id(token["id"])));
  for (const Json& step : steps_of(json["normalizer"], "normalizers"))
    spec.normalizer.push_back(read_normalizer_step(step));
  expect_modest(json["normalizer"], spec.normalizer);
  spec.pre_tokenizer = read_pre_tokenizer(json["pre_tokenizer"]);
  read_post_processor(json["post_processor"], spec);
  spec.has_decoder = !json["decoder"].is_null();
  for (const Json& step : steps_of(json["decoder"], "decoders"))
    spec.decoder.push_back(read_decoder_step(step));
  expect_modest(json["decoder"], spec.decoder);
  read_special_names(std::filesystem::path(path).parent_path(), spec);
  return spec;
}

}  // namespace quietformer
