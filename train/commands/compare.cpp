#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "analysis/compare.h"
#include "core/file.h"
#include "train/commands/command.h"

namespace quietformer {

void add_compare(CLI::App& app, CommandBody& body) {
  struct Arguments {
    std::vector<std::string> runs;
    std::string json;
  };
  auto args = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand("compare", "Finished runs side by side");
  command->add_option("RUN_DIR", args->runs, "Run directories; deltas are to the first")
      ->required();
  command->add_option("--json", args->json, "Also write the numbers to this file");
  command->footer("Example: quietformer compare runs/demo-softmax0 runs/demo-softmax1");
  command->callback([args, &body] {
    body = [args] {
      const std::vector<RunSummary> runs = read_runs(args->runs);
      if (!args->json.empty()) write_file_atomically(args->json, comparison_json(runs) + "\n");
      fmt::print("{}", comparison_table(runs));
      return 0;
    };
  });
}

}  // namespace quietformer
