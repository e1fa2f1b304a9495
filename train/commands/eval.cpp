#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/check.h"
#include "data/windows.h"
#include "train/commands/command.h"
#include "train/evaluate.h"
#include "train/load_model.h"
#include "train/text.h"

namespace quietformer {
namespace {

struct Arguments {
  std::string model, data, split, tokenizer, device = "auto";
  std::optional<std::int64_t> mask_token;
  bool json = false;
};

Span choose_span(const Split& split, const std::string& name) {
  if (name == "train") return split.train;
  return name == "validation" ? split.validation : split.test;
}

/// Of an encoder's tokens: as in its run, whatever the text.
std::optional<Masking> choose_masking(const Arguments& args, const LoadedModel& loaded,
                                      SourceKind kind) {
  RunConfig config = loaded.config;
  if (!is_encoder(config.model) && args.mask_token)
    throw InputError("--mask-token: for encoders, found model.type " + config.model.type);
  const bool known = args.mask_token || config.data.mlm.mask_token;
  if (is_encoder(config.model) && !loaded.trained_here && !known)
    throw InputError("--mask-token: needed: a Hugging Face model does not say which token it is");
  config.data.source = kind == SourceKind::bytes ? "bytes" : "tokens";
  if (args.mask_token) config.data.mlm.mask_token = args.mask_token;
  return masking_of(config);
}

int eval(const Arguments& args) {
  LoadedModel loaded = load_model(args.model, args.device);
  const RunConfig& config = loaded.config;
  if (args.data.empty() && !loaded.trained_here)
    throw InputError("--data: needed: a Hugging Face model does not say what to evaluate it on");
  const bool own_data = args.data.empty();
  const std::string split_name = args.split.empty() ? (own_data ? "test" : "all") : args.split;

  SourceRequest request;
  request.kind = loaded.trained_here ? source_kind(config.data.source) : SourceKind::tokens;
  request.path = own_data ? config.data.path : args.data;
  request.what = own_data ? "data.path" : "--data";
  request.vocab = config.model.vocab;
  if (own_data) request.generated_bytes = split_total(config.data.split, config.model.context);
  const std::unique_ptr<const Tokenizer> tokenizer = model_tokenizer(loaded, args.tokenizer);
  if (!loaded.trained_here && tokenizer == nullptr && !request.path.ends_with(".bin"))
    throw InputError(
        fmt::format("--data: {}: {} has no tokenizer to read text with, expected one, --tokenizer "
                    "or a *.bin of "
                    "ids",
                    request.path, args.model));
  choose_text(request, tokenizer.get());
  const auto source = open_source(request);
  Span span{0, source->size()};
  if (split_name != "all")
    span = choose_span(make_split(config.data.split, config.model.context, *source), split_name);
  if (span.size < 2)
    throw InputError(fmt::format("{}: {}: {} tokens, expected 2 or more", request.what,
                                 request.path, span.size));

  const Context ctx = context_for(loaded.placement);
  const std::int64_t batch = std::min<std::int64_t>(config.train.batch, 16);
  Arena arena("activations", ctx.device);
  const std::optional<Masking> masking = choose_masking(args, loaded, request.kind);
  BatchFeed feed(arena, {batch, config.model.context}, ctx.device,
                 masking ? BatchFeed::Padding::possible : BatchFeed::Padding::none);
  loaded.model->declare(ctx, arena, {batch, config.model.context}, Purpose::inference);
  arena.commit();
  const Windows windows(*source, span, config.model.context, batch);
  const Evaluation result =
      evaluate(ctx, *loaded.model, windows, feed, nullptr, masking ? &*masking : nullptr);

  // Of a file of ids nobody knows the text.
  const bool bytes = source->text_bytes() > 0;
  const double bits =
      bytes ? bits_per_byte(result.loss * double(source->size()) / double(source->text_bytes()))
            : 0;
  if (args.json) {
    nlohmann::ordered_json json{
        {"model", loaded.path}, {"step", loaded.step}, {"device", loaded.placement.text},
        {"data", request.path}, {"split", split_name}, {"tokens", result.targets},
        {"loss", result.loss}};
    if (bytes) json["bits_per_byte"] = bits;
    json["perplexity"] = std::exp(result.loss);
    fmt::print("{}\n", json.dump());
  } else {
    fmt::print("{} ({}, {} tokens) on {}: loss {:.6f} nats{}, perplexity {:.4f}\n", request.path,
               split_name, result.targets, loaded.placement.text, result.loss,
               bytes ? fmt::format(", {:.6f} bits per byte", bits) : "", std::exp(result.loss));
  }
  return 0;
}

}  // namespace

void add_eval(CLI::App& app, CommandBody& body) {
  auto args = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand("eval", "Loss of a model over a whole split");
  command
      ->add_option("CHECKPOINT", args->model, "Checkpoint, run directory or Hugging Face directory")
      ->required();
  command->add_option("--data", args->data,
                      "Another file than the run's data.path: text, or ids in a *.bin");
  command->add_option("--tokenizer", args->tokenizer,
                      "tokenizer.json or its directory (default: the model's own)");
  command
      ->add_option("--split", args->split,
                   "Part by the run's data.split (default test; with --data the whole file)")
      ->check(CLI::IsMember({"train", "validation", "test", "all"}));
  command->add_option("--mask-token", args->mask_token,
                      "Id of an encoder's mask (default: data.mlm.mask_token of its run)");
  command->add_option("--device", args->device, "auto, cpu, cuda or cuda:N")->capture_default_str();
  command->add_flag("--json", args->json, "One JSON object");
  command->footer("Example: quietformer eval runs/demo-softmax1 --split validation");
  command->callback([args, &body] { body = [args] { return eval(*args); }; });
}

}  // namespace quietformer
