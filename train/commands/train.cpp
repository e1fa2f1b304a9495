#include <unistd.h>

#include <CLI/CLI.hpp>
#include <fstream>
#include <memory>
#include <optional>

#include "train/commands/command.h"
#include "train/commands/commit.h"
#include "train/run.h"
#include "train/surgery.h"

namespace quietformer {
namespace {

// The processor's name where Linux says it (on x86-64).
std::string processor() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("model name") && line.find(": ") != line.npos)
      return line.substr(line.find(": ") + 2);
  return {};
}

std::vector<std::pair<std::string, std::string>> environment() {
  std::vector<std::pair<std::string, std::string>> known{{"version", QUIETFORMER_VERSION}};
  const auto add = [&](const char* key, const std::string& value) {
    if (!value.empty()) known.emplace_back(key, value);
  };
  add("commit", QUIETFORMER_COMMIT);
#ifdef __clang__
  add("compiler", "clang " __clang_version__);
#elif defined __GNUC__
  add("compiler", "gcc " __VERSION__);
#endif
  add("processor", processor());
  return known;
}

}  // namespace

void add_train(CLI::App& app, CommandBody& body) {
  struct Arguments {
    std::string config, directory, init;
    std::vector<std::string> overrides;
    bool resume = false, memory = false;
  };
  auto args = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand("train", "Train a model from a YAML config");
  command->add_option("CONFIG", args->config, "YAML file")->required();
  command->add_option("OVERRIDES", args->overrides, "section.key=value, as in the file");
  command->add_option("--run-dir", args->directory, "Where the run is written (default runs/NAME)");
  command->add_option("--init", args->init,
                      "Fine-tune: start from this checkpoint or Hugging Face directory; its model "
                      "and attention, where CONFIG says nothing else");
  command->add_flag("--resume", args->resume, "Continue from the newest valid checkpoint");
  command->add_flag("--memory", args->memory, "Print activation memory by named segment");
  command->footer(
      "Example: quietformer train configs/enwik8/softmax1.yaml train.steps=2000 --run-dir runs/a");
  command->callback([args, &body] {
    body = [args] {
      std::optional<ModelSource> init;
      if (!args->init.empty()) {
        init = open_model(args->init);
        settle_schedules(init->config.attention, init->step);
      }
      const RunConfig config =
          load_run_config(args->config, args->overrides, init ? &init->config : nullptr);
      RunOptions options;
      options.init = init ? &*init : nullptr;
      options.directory = args->directory.empty() ? "runs/" + config.name : args->directory;
      options.resume = args->resume ? Resume::yes : Resume::no;
      options.terminal = isatty(STDOUT_FILENO) != 0;
      options.memory_report = args->memory;
      options.environment = environment();
      return run_training(config, options);
    };
  });
}

}  // namespace quietformer
