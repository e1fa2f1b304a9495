#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "data/windows.h"
#include "train/commands/command.h"
#include "train/evaluate.h"
#include "train/evaluation_text.h"
#include "train/load_model.h"

namespace quietformer {
namespace {

struct EvalArguments {
  std::string model, device = "auto";
  TextRequest text;
  bool json = false;
};

int eval(const EvalArguments& args) {
  LoadedModel loaded = load_model(args.model, args.device);
  const RunConfig& config = loaded.config;
  const EvaluationText text = open_text(loaded, args.text);

  const Context ctx = context_for(loaded.placement);
  const std::int64_t batch = std::min<std::int64_t>(config.train.batch, 16);
  Arena arena("activations", ctx.device);
  BatchFeed feed(arena, {batch, config.model.context}, ctx.device,
                 text.masking ? BatchFeed::Padding::possible : BatchFeed::Padding::none);
  loaded.model->declare(ctx, arena, {batch, config.model.context}, Purpose::inference);
  arena.commit();
  const Windows windows(*text.source, text.span, config.model.context, batch);
  const Evaluation result =
      evaluate(ctx, *loaded.model, windows, feed, nullptr, text.masking ? &*text.masking : nullptr);

  const std::optional<double> bits = text.bits_per_byte(result.loss);
  if (args.json) {
    nlohmann::ordered_json json{
        {"model", loaded.path}, {"step", loaded.step}, {"device", loaded.placement.text},
        {"data", text.path},    {"split", text.split}, {"tokens", result.targets},
        {"loss", result.loss}};
    if (bits) json["bits_per_byte"] = *bits;
    json["perplexity"] = std::exp(result.loss);
    fmt::print("{}\n", json.dump());
  } else {
    fmt::print("{} ({}, {} tokens) on {}: loss {:.6f} nats{}, perplexity {:.4f}\n", text.path,
               text.split, result.targets, loaded.placement.text, result.loss,
               bits ? fmt::format(", {:.6f} bits per byte", *bits) : "", std::exp(result.loss));
  }
  return 0;
}

}  // namespace

void add_eval(CLI::App& app, CommandBody& body) {
  auto args = std::make_shared<EvalArguments>();
  CLI::App* command = app.add_subcommand("eval", "Loss of a model over a whole split");
  command
      ->add_option("CHECKPOINT", args->model, "Checkpoint, run directory or Hugging Face directory")
      ->required();
  command->add_option("--data", args->text.data,
                      "Another file than the run's data.path: text, or ids in a *.bin");
  command->add_option("--tokenizer", args->text.tokenizer,
                      "tokenizer.json or its directory (default: the model's own)");
  command
      ->add_option("--split", args->text.split,
                   "Part by the run's data.split (default test; with --data the whole file)")
      ->check(CLI::IsMember({"train", "validation", "test", "all"}));
  command->add_option("--mask-token", args->text.mask_token,
                      "Id of an encoder's mask (default: data.mlm.mask_token of its run)");
  command->add_option("--device", args->device, "auto, cpu, cuda or cuda:N")->capture_default_str();
  command->add_flag("--json", args->json, "One JSON object");
  command->footer("Example: quietformer eval runs/demo-softmax1 --split validation");
  command->callback([args, &body] { body = [args] { return eval(*args); }; });
}

}  // namespace quietformer
