#include "train/run_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "core/check.h"
#include "train/placement.h"

namespace quietformer {
namespace {

using Kind = ConfigValue::Kind;

constexpr std::string_view kOverContext = "/context";

struct LearnedForm {
  bool learned = false;
  double init = 0;
  template <class V>
  void visit(V& v) {
    v.field("learned", learned);
    v.field("init", init);
  }
};

struct ScheduledForm {
  double from = 0, to = 0;
  std::int64_t steps = 0;
  template <class V>
  void visit(V& v) {
    v.field("from", from);
    v.field("to", to);
    v.field("steps", steps);
  }
};

template <class Form>
Form read_form(const ConfigValue& value, const std::string& path,
               std::initializer_list<const char*> required) {
  for (const char* key : required)
    if (value.find(key) == nullptr)
      throw InputError(fmt::format("{}: {}: key '{}' is missing", value.where, path, key));
  Form form;
  ConfigReader reader(value, path);
  form.visit(reader);
  reader.finish();
  return form;
}

RunConfig read_valid_tree(const ConfigValue& tree) {
  RunConfig config = read_run_tree(tree);
  validate(config);
  return config;
}

ConfigValue tree_of(const RunConfig& config) {
  ConfigWriter writer;
  RunConfig copy = config;  // visit() is shared with the reader and so takes a mutable struct
  copy.visit(writer);
  return writer.root();
}

/// Keys of a section that `tree` does not have.
void inherit(ConfigValue& tree, const ConfigValue& from, const char* section) {
  const ConfigValue& given = *from.find(section);
  const auto found = std::find_if(tree.fields.begin(), tree.fields.end(),
                                  [&](const auto& field) { return field.first == section; });
  tree.kind = Kind::map;  // an empty file is null
  if (found == tree.fields.end()) {
    tree.fields.emplace_back(section, given);
  } else if (found->second.kind == Kind::map) {
    for (const auto& [key, value] : given.fields)
      if (found->second.find(key) == nullptr) found->second.fields.emplace_back(key, value);
  }
}

void flatten(const ConfigValue& value, const std::string& path,
             std::map<std::string, std::string>& out) {
  if (value.kind == Kind::map &&
      std::find(kHeadParameterKeys.begin(), kHeadParameterKeys.end(),
                path.substr(path.rfind('.') + 1)) == kHeadParameterKeys.end()) {
    for (const auto& [key, item] : value.fields)
      flatten(item, path.empty() ? key : path + "." + key, out);
    return;
  }
  ConfigValue wrapper;
  wrapper.kind = Kind::list;  // one line, whatever the value is
  wrapper.items.push_back(value);
  const std::string text = to_yaml(wrapper);
  out[path] = text.substr(1, text.size() - 3);
}

void require(bool good, std::string_view key, const auto& found, std::string_view expected) {
  if (!good) throw InputError(fmt::format("{}: found {}, expected {}", key, found, expected));
}

void validate_train(const TrainConfig& train) {
  require(is_device_name(train.device), "train.device", train.device, "auto, cpu, cuda or cuda:N");
  require(is_dtype_name(train.dtype), "train.dtype", train.dtype, "auto, fp32, bf16, fp16 or fp64");
  if (train.device == "cpu") place(train.device, train.dtype);  // 16 bits need a GPU
  constexpr std::int64_t kMany = std::int64_t{1} << 24;
  require(train.batch >= 1 && train.batch <= kMany, "train.batch", train.batch, "1 to 16777216");
  require(train.accumulate >= 1 && train.accumulate <= kMany, "train.accumulate", train.accumulate,
          "1 to 16777216");
  require(train.steps >= 1, "train.steps", train.steps, "1 or more");
  require(train.eval_every >= 0, "train.eval_every", train.eval_every, "0 (never) or more");
  require(train.eval_batches >= 1, "train.eval_batches", train.eval_batches, "1 or more");
  require(train.checkpoint_every >= 0, "train.checkpoint_every", train.checkpoint_every,
          "0 (only at the end) or more");
  require(train.keep >= 1, "train.keep", train.keep, "1 or more");
  require(train.log_every >= 1, "train.log_every", train.log_every, "1 or more");
  require(train.threads >= 0 && train.threads <= 4096, "train.threads", train.threads,
          "0 (all cores) to 4096");
}

constexpr std::int64_t kBytes = 256;  // ids of data.source bytes; what is not text comes after

std::optional<std::int64_t> mask_token_of(const DataConfig& data) {
  if (data.mlm.mask_token || data.source != "bytes") return data.mlm.mask_token;
  return kBytes;
}

void validate_mlm(const DataConfig& data, const ModelConfig& model) {
  const double probability = data.mlm.probability;
  require(probability > 0 && probability <= 1, "data.mlm.probability", probability,
          "above 0, at most 1");
  const std::optional<std::int64_t> token = mask_token_of(data);
  require(token.has_value(), "data.mlm.mask_token", "default", "an id for data.source tokens");
  require(*token >= 0 && *token < model.vocab, "data.mlm.mask_token", *token,
          fmt::format("0 to {} (model.vocab {})", model.vocab - 1, model.vocab));
}

}  // namespace

void read_value(const ConfigValue& value, const std::string& path, HeadParameterConfig& out) {
  out = HeadParameterConfig();
  if (value.kind == Kind::scalar && value.text == "-log_context" &&
      path.ends_with("sigmoid_bias")) {
    out.kind = HeadParameterConfig::Kind::minus_log_context;
  } else if (value.kind == Kind::scalar && value.text.ends_with(kOverContext) &&
             path.ends_with("gamma")) {
    ConfigValue number = value;
    number.text.resize(value.text.size() - kOverContext.size());
    out.kind = HeadParameterConfig::Kind::over_context;
    read_value(number, path, out.values.emplace_back());
  } else if (value.kind == Kind::list) {
    out.kind = HeadParameterConfig::Kind::per_head;
    read_value(value, path, out.values);
  } else if (value.kind == Kind::map && value.find("learned") != nullptr) {
    const LearnedForm form = read_form<LearnedForm>(value, path, {"init"});
    if (!form.learned)
      throw InputError(fmt::format("{}: {}.learned: found false, expected true (or a number alone)",
                                   value.where, path));
    out.kind = HeadParameterConfig::Kind::learned;
    out.init = form.init;
  } else if (value.kind == Kind::map) {
    const ScheduledForm form = read_form<ScheduledForm>(value, path, {"from", "to", "steps"});
    out.kind = HeadParameterConfig::Kind::scheduled;
    out.from = form.from;
    out.to = form.to;
    out.steps = form.steps;
  } else {
    out.kind = HeadParameterConfig::Kind::fixed;
    double number = 0;
    read_value(value, path, number);
    out.values = {number};
  }
}

ConfigValue write_value(const HeadParameterConfig& value) {
  ConfigWriter writer;
  switch (value.kind) {
    case HeadParameterConfig::Kind::fixed:
      return write_value(value.values.at(0));
    case HeadParameterConfig::Kind::per_head:
      return write_value(value.values);
    case HeadParameterConfig::Kind::minus_log_context:
      return ConfigValue::scalar("-log_context");
    case HeadParameterConfig::Kind::over_context: {
      ConfigValue text = write_value(value.values.at(0));
      text.text += kOverContext;
      return text;
    }
    case HeadParameterConfig::Kind::learned: {
      LearnedForm form{true, value.init};
      form.visit(writer);
      return writer.root();
    }
    case HeadParameterConfig::Kind::scheduled: {
      ScheduledForm form{value.from, value.to, value.steps};
      form.visit(writer);
      return writer.root();
    }
  }
  return {};
}

RunConfig load_run_config(const std::string& path, const std::vector<std::string>& overrides,
                          const RunConfig* init) {
  ConfigValue tree = load_config(path, kHeadParameterKeys);
  for (const std::string& assignment : overrides)
    apply_override(tree, assignment, kHeadParameterKeys);
  if (init != nullptr)
    for (const char* section : {"model", "attention"}) inherit(tree, tree_of(*init), section);
  return read_valid_tree(tree);
}

ConfigValue load_run_tree(const std::string& path) {
  return load_config(path, kHeadParameterKeys);
}

void merge_run_tree(ConfigValue& onto, const ConfigValue& more) {
  merge_config(onto, more, kHeadParameterKeys);
}

RunConfig read_run_tree(const ConfigValue& tree) {
  RunConfig config;
  ConfigReader reader(tree, "");
  config.visit(reader);
  reader.finish();
  return config;
}

RunConfig parse_run_config(const std::string& yaml, const std::string& name) {
  return read_valid_tree(parse_yaml(yaml, name));
}

std::string to_yaml(const RunConfig& config) {
  return to_yaml(tree_of(config));
}

void validate(const RunConfig& config) {
  const bool plain = !config.name.empty() && config.name != "." && config.name != ".." &&
                     config.name.find('/') == std::string::npos && config.name.size() <= 200;
  require(plain, "name", fmt::format("'{}'", config.name), "a file name without '/'");
  require(config.data.source == "bytes" || config.data.source == "tokens", "data.source",
          config.data.source, "bytes or tokens");
  require(config.data.source != "bytes" || config.model.vocab >= 256, "model.vocab",
          config.model.vocab, "256 or more for data.source bytes");
  require(!config.data.path.empty(), "data.path", "''", "a file or generator:wikipedia");
  require(config.data.tokenizer.empty() || config.data.source == "tokens", "data.tokenizer",
          config.data.tokenizer, "'' for data.source bytes");
  for (const std::int64_t part : config.data.split)
    require(part >= 0, "data.split", part, "lengths of 0 or more");
  validate_train(config.train);
  validate(config.model, config.attention);
  if (is_encoder(config.model)) validate_mlm(config.data, config.model);
  config.optim.validate();
  config.analysis.validate();
}

std::optional<Masking> masking_of(const RunConfig& config) {
  if (!is_encoder(config.model)) return std::nullopt;
  validate_mlm(config.data, config.model);
  Masking::Rule rule;
  rule.probability = config.data.mlm.probability;
  rule.mask_token = static_cast<std::int32_t>(mask_token_of(config.data).value());
  rule.random_ids =
      static_cast<std::int32_t>(config.data.source == "bytes" ? kBytes : config.model.vocab);
  return Masking(rule);
}

std::vector<std::string> differences(const RunConfig& here, const RunConfig& there) {
  std::map<std::string, std::string> a, b;
  flatten(tree_of(here), "", a);
  flatten(tree_of(there), "", b);
  std::vector<std::string> lines;
  const auto same = [](const std::string& key, const std::string& x, const std::string& y) {
    for (const char* free : {"threads", "keep", "tensorboard", "device", "tf32", "deterministic"})
      if (key == std::string("train.") + free) return true;
    if (key == "train.dtype") return (x == "fp64") == (y == "fp64");  // masters are f32 otherwise
    return x == y;
  };
  for (const auto& [key, value] : a)
    if (!same(key, value, b[key]))
      lines.push_back(fmt::format("{}: {} here, {} there", key, value, b[key]));
  return lines;
}

}  // namespace quietformer
