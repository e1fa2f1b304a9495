#include "train/sweep.h"

#include <CLI/CLI.hpp>
#include <memory>

#include "train/commands/command.h"

namespace quietformer {

void add_sweep(CLI::App& app, CommandBody& body) {
  struct Arguments {
    std::string file;
    SweepOptions options;
  };
  auto args = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand(
      "sweep", "Variants x seeds on the devices of this machine, then their comparison");
  command->add_option("SWEEP", args->file, "YAML file of a sweep")->required();
  command->add_option("--devices", args->options.devices,
                      "cpu, or GPUs as CUDA_VISIBLE_DEVICES lists them: 0,1 (default: all)");
  command->add_flag("--dry-run", args->options.dry_run, "Say what there is to do, and stop");
  command->footer("Example: quietformer sweep configs/sweeps/demo.yaml");
  command->callback([args, &body] {
    body = [args] { return run_sweep(read_sweep(args->file), args->options); };
  });
}

}  // namespace quietformer
