#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/check.h"
#include "core/log.h"
#include "layers/layer_ranges.h"
#include "train/calibrate.h"
#include "train/commands/command.h"
#include "train/convert.h"
#include "train/hf/export.h"
#include "train/hf/map_file.h"
#include "train/placement.h"
#include "train/surgery.h"
#include "train/text.h"

namespace quietformer {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

struct ConvertArguments {
  std::string source, target, to, map, calibrate, device = "auto", shard_size = "5GB";
  SurgeryRequest surgery;
  std::optional<std::int64_t> mask_token;
  bool strict = false, json = false;
};

// "5GB", "500MB", "20000": powers of 1000, as transformers counts.
std::uint64_t parse_size(const std::string& text) {
  std::size_t digits = 0;
  while (digits < text.size() && text[digits] >= '0' && text[digits] <= '9') ++digits;
  const std::string unit = text.substr(digits);
  const double factor = unit.empty()   ? 1
                        : unit == "KB" ? 1e3
                        : unit == "MB" ? 1e6
                        : unit == "GB" ? 1e9
                                       : 0;
  if (digits == 0 || digits > 12 || factor == 0)
    throw InputError(
        fmt::format("--shard-size: found '{}', expected bytes, or a number of KB, MB or GB", text));
  const double bytes = std::stod(text.substr(0, digits)) * factor;
  if (bytes < 1 || bytes > 1e15)
    throw InputError(fmt::format("--shard-size: found '{}', expected 1 to 1e15 bytes", text));
  return static_cast<std::uint64_t>(bytes);
}

bool to_native(const ConvertArguments& args) {
  if (args.to.empty()) return args.target.ends_with(".h5");
  return args.to == "native";
}

// A name for runs and messages, from what the user calls the model.
std::string name_of_model(const std::string& path) {
  fs::path name = fs::path(path).lexically_normal();
  if (!name.has_filename()) name = name.parent_path();
  const std::string stem = name.filename().string();
  return stem.empty() || stem == "." || stem == ".." ? "model" : stem.substr(0, 200);
}

void complete(ModelSource& model, const ConvertArguments& args) {
  settle_schedules(model.config.attention, model.step);
  model.step = 0;
  if (!model.trained_here) {
    model.config.name = name_of_model(args.source);
    if (has_tokenizer(args.source))
      model.config.data.tokenizer = fs::absolute(args.source).lexically_normal().string();
  }
  if (args.mask_token && !is_encoder(model.config.model))
    throw InputError("--mask-token: for encoders, found model.type " + model.config.model.type);
  if (!is_encoder(model.config.model)) return;
  std::optional<std::int64_t>& mask = model.config.data.mlm.mask_token;
  if (args.mask_token)
    mask = args.mask_token;
  else if (!model.trained_here && !mask)
    mask = mask_token_of(model);
  if (!mask && !model.trained_here && (to_native(args) || !args.calibrate.empty()))
    throw InputError(fmt::format(
        "--mask-token: needed: {} has no tokeniser that says which token it is", args.source));
}

// Bytes for a model of bytes, otherwise ids, or text for the model's tokenizer.
std::unique_ptr<TokenSource> open_text(const ConvertArguments& args, const ModelSource& model) {
  SourceRequest request;
  request.kind = model.trained_here ? source_kind(model.config.data.source) : SourceKind::tokens;
  request.path = args.calibrate;
  request.what = "--calibrate";
  request.vocab = model.config.model.vocab;
  const auto tokenizer = config_tokenizer(model.config.data);
  if (request.kind == SourceKind::tokens && tokenizer == nullptr && !request.path.ends_with(".bin"))
    throw InputError(fmt::format(
        "--calibrate: {}: {} has no tokenizer to read text with, expected one or a *.bin of ids",
        request.path, args.source));
  choose_text(request, tokenizer.get());
  return open_source(request);
}

Json layers_json(const SurgeryReport& report) {
  return {{"changed", report.changed}, {"same", report.same}, {"skipped", report.skipped}};
}

Json calibration_json(const std::string& text, const Calibration& before,
                      const Calibration& after) {
  Json layers = Json::array();
  for (std::size_t layer = 0; layer < before.sink_mass.size(); ++layer)
    layers.push_back(
        {{"layer", layer}, {"before", before.sink_mass[layer]}, {"after", after.sink_mass[layer]}});
  return {{"text", text},
          {"tokens", before.targets},
          {"loss", {{"before", before.loss}, {"after", after.loss}}},
          {"sink_mass", layers}};
}

std::string word(const Json& mass) {
  return mass.is_number() && std::isfinite(mass.get<double>())
             ? fmt::format("{:.6f}", mass.get<double>())
             : "-";
}

std::string list(const Json& items) {
  return items.empty() ? "none"
                       : fmt::format("{}", fmt::join(items.get<std::vector<std::string>>(), ", "));
}

void print(const Json& report) {
  fmt::print("{} -> {} ({}): {}, {} parameters, {} values\n", report["source"].get<std::string>(),
             report["target"].get<std::string>(), report["format"].get<std::string>(),
             report["architecture"].get<std::string>(), report["parameters"].get<std::int64_t>(),
             report["values"].get<std::int64_t>());
  if (report.contains("layers")) {
    const auto ranges = [&](const char* key) {
      const auto layers = report["layers"][key].get<std::vector<std::int64_t>>();
      return layers.empty() ? "none" : format_layers(layers);
    };
    fmt::print("attention {}: layers changed {}, already so {}, skipped {}\n",
               list(report["attention"]), ranges("changed"), ranges("same"), ranges("skipped"));
  }
  const Json& tensors = report["tensors"];
  fmt::print("tensors: unused {}; started {}; dropped {}\n", list(tensors["unused"]),
             list(tensors["started"]), list(tensors["dropped"]));
  if (!report.contains("calibration")) return;
  const Json& calibration = report["calibration"];
  fmt::print("{} ({} tokens): loss {:.6f} nats before, {:.6f} after\n",
             calibration["text"].get<std::string>(), calibration["tokens"].get<std::int64_t>(),
             calibration["loss"]["before"].get<double>(),
             calibration["loss"]["after"].get<double>());
  fmt::print("{:>5} {:>18} {:>18}\n", "layer", "sink mass before", "after");
  for (const Json& row : calibration["sink_mass"])
    fmt::print("{:>5} {:>18} {:>18}\n", row["layer"].get<std::int64_t>(), word(row["before"]),
               word(row["after"]));
}

void warn_of_no_match(const ConvertArguments& args, const ModelSource& model,
                      const SurgeryReport& surgery) {
  if (surgery.matched()) return;
  const std::string what =
      fmt::format("--layers {}: no layer matches, {} has layers 0-{}", args.surgery.layers,
                  args.source, model.config.model.layers - 1);
  if (args.strict) throw InputError(what);
  log_warning(what);
}

int convert(const ConvertArguments& args) {
  const std::uint64_t shard_bytes = parse_size(args.shard_size);
  if (args.surgery.layers != "*" && args.surgery.changes.empty())
    throw InputError("--layers: found without --attention, which says what to change");
  if (fs::exists(args.target) && !(fs::is_directory(args.target) && fs::is_empty(args.target)))
    throw InputError(fmt::format("{}: exists, expected a new name", args.target));
  Context ctx;
  ctx.threads = thread_count(0);
  ModelSource model =
      args.map.empty() ? open_model(args.source) : open_mapped_model(args.source, args.map);
  complete(model, args);

  Json report{
      {"source", args.source},
      {"target", args.target},
      {"format", to_native(args) ? "native" : "hf"},
      {"architecture", model.architecture.empty() ? model.config.model.type : model.architecture}};
  const auto text = args.calibrate.empty() ? nullptr : open_text(args, model);
  std::optional<Calibration> before;
  if (text) before = calibrate(model, *text, args.device);
  SurgeryReport surgery;
  if (!args.surgery.changes.empty()) {
    surgery = apply_surgery(model, args.surgery);
    warn_of_no_match(args, model, surgery);
    report["attention"] = args.surgery.changes;
    report["layers"] = layers_json(surgery);
  }
  std::int64_t values = 0;
  for (const SourceParameter& parameter : model.parameters) values += parameter.shape.count();
  report["parameters"] = model.parameters.size();
  report["values"] = values;
  report["tensors"] = {
      {"unused", model.unused}, {"started", surgery.started}, {"dropped", surgery.dropped}};
  if (text)
    report["calibration"] =
        calibration_json(args.calibrate, *before, calibrate(model, *text, args.device));

  if (to_native(args)) {
    write_native(ctx, args.target, model);
  } else {
    const HfArchitecture* known = find_hf_architecture(model.architecture);
    const HfArchitecture& architecture =
        known != nullptr ? *known : hf_architecture_like(model.config.model);
    write_hf_directory(ctx, args.target, model, architecture, {shard_bytes});
  }
  if (args.json)
    fmt::print("{}\n", report.dump());
  else
    print(report);
  return 0;
}

}  // namespace

void add_convert(CLI::App& app, CommandBody& body) {
  auto args = std::make_shared<ConvertArguments>();
  CLI::App* command = app.add_subcommand("convert", "Import, change and export pretrained models");
  command->add_option("SOURCE", args->source, "Hugging Face directory, checkpoint or run directory")
      ->required();
  command->add_option("DEST", args->target, "A checkpoint (.h5) or directory to write")->required();
  command
      ->add_option("--to", args->to, "native or hf (default: native if DEST ends in .h5, else hf)")
      ->check(CLI::IsMember({"native", "hf"}));
  command
      ->add_option("--attention", args->surgery.changes,
                   "KEY=VALUE of the section attention, or sink_logit=X for a learned sink")
      ->expected(1, -1);
  command->add_option("--layers", args->surgery.layers, "Layers that --attention changes: 0,4-11")
      ->capture_default_str();
  command->add_option("--map", args->map,
                      "YAML file that says what SOURCE's tensors are (docs/pretrained.md)");
  command->add_flag("--strict", args->strict, "Fail when no layer matches");
  command->add_option("--calibrate", args->calibrate,
                      "Text to measure loss and sink mass on, before and after");
  command->add_option("--mask-token", args->mask_token,
                      "Id of an encoder's mask (default: what its tokeniser says)");
  command->add_option("--shard-size", args->shard_size, "Largest file of weights: 5GB, 500MB")
      ->capture_default_str();
  command->add_option("--device", args->device, "For --calibrate: auto, cpu, cuda or cuda:N")
      ->capture_default_str();
  command->add_flag("--json", args->json, "The report as one JSON object");
  command->footer(
      "Example: quietformer convert gpt2/ gpt2-softmax1.h5 --attention normalizer=softmax_n n=1");
  command->callback([args, &body] { body = [args] { return convert(*args); }; });
}

}  // namespace quietformer
