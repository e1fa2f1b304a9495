#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "analysis/results.h"
#include "analysis/weight_statistics.h"
#include "train/commands/command.h"
#include "train/load_model.h"
#include "train/placement.h"

namespace quietformer {

void add_stats(CLI::App& app, CommandBody& body) {
  struct Arguments {
    std::string model;
    bool json = false;
  };
  auto args = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand("stats", "Statistics of a model's weights");
  command
      ->add_option("CHECKPOINT", args->model, "Checkpoint, run directory or Hugging Face directory")
      ->required();
  command->add_flag("--json", args->json, "One JSON object");
  command->footer("Example: quietformer stats runs/demo-softmax1 --json");
  command->callback([args, &body] {
    body = [args] {
      const LoadedModel loaded = load_model(args->model);
      Context ctx;
      ctx.threads = thread_count(0);
      const auto weights = weight_statistics(ctx, *loaded.parameters);
      fmt::print("{}",
                 args->json ? weights_json(weights, loaded.path) + "\n" : weights_table(weights));
      return 0;
    };
  });
}

}  // namespace quietformer
