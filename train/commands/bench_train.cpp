#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>

#include "core/cuda/memory.h"
#include "core/cuda/timer.h"
#include "train/commands/bench.h"
#include "train/run_config.h"
#include "train/trainer.h"

namespace quietformer {
namespace {

using Json = nlohmann::ordered_json;

struct TrainArguments {
  std::string config;
  std::vector<std::string> overrides;
  std::int64_t layers = 4, heads = 4, dim = 256, context = 256, batch = 8, vocab = 256;
  std::int64_t steps = 20, warmup = 5, threads = 0;
  std::string device = "auto", dtype = "auto";
  bool statistics = false, deterministic = false, no_graph = false, profile = false;
};

RunConfig bench_config(const TrainArguments& args) {
  if (!args.config.empty()) {
    std::vector<std::string> overrides = args.overrides;
    if (args.device != "auto") overrides.push_back("train.device=" + args.device);
    if (args.dtype != "auto") overrides.push_back("train.dtype=" + args.dtype);
    if (args.deterministic) overrides.push_back("train.deterministic=true");
    if (args.threads > 0) overrides.push_back(fmt::format("train.threads={}", args.threads));
    return load_run_config(args.config, overrides);
  }
  RunConfig config;
  config.name = "bench";
  config.model.layers = args.layers;
  config.model.heads = config.model.kv_heads = args.heads;
  config.model.dim = args.dim;
  config.model.mlp_dim = 4 * args.dim;
  config.model.context = args.context;
  config.model.vocab = args.vocab;
  config.attention.n = HeadParameterConfig::fixed(0);
  config.data.split = {4 * args.batch * (args.context + 1) + 100000, args.context + 1,
                       args.context + 1};
  config.train.batch = args.batch;
  config.train.threads = args.threads;
  config.train.device = args.device;
  config.train.dtype = args.dtype;
  config.train.deterministic = args.deterministic;
  validate(config);
  return config;
}

/// Returns when the device has done all it was asked to do.
void finish(Device device) {
  if (device.type == DeviceType::cuda) cuda::synchronize(device);
}

/// Milliseconds of one step.
double time_step(Trainer& trainer, ActivationStatistics* statistics, bool profiled) {
  const Device device = trainer.context().device;
  finish(device);
  if (profiled) cuda::profile(true);
  const auto begin = std::chrono::steady_clock::now();
  if (statistics != nullptr) statistics->begin_step();
  trainer.step(statistics);
  if (statistics != nullptr) statistics->end_step();
  finish(device);
  const auto end = std::chrono::steady_clock::now();
  if (profiled) cuda::profile(false);
  return std::chrono::duration<double, std::milli>(end - begin).count();
}

int bench_train(const TrainArguments& args) {
  expect_positive("--steps", args.steps);
  const RunConfig config = bench_config(args);
  Trainer trainer(config, args.no_graph ? Recording::no : Recording::yes);
  ActivationStatistics statistics(config.analysis, config.model.heads);
  const Device device = trainer.context().device;
  // With statistics every other step goes without: a GPU's clock falls as it warms up, by more than
  // they cost.
  std::vector<double> times, times_without;
  for (std::int64_t s = 0; s < args.warmup + args.steps; ++s) {
    const bool profiled = args.profile && s + 1 == args.warmup + args.steps;
    const double without = args.statistics ? time_step(trainer, nullptr, false) : 0;
    const double ms = time_step(trainer, args.statistics ? &statistics : nullptr, profiled);
    if (s < args.warmup) continue;
    times.push_back(ms);
    times_without.push_back(without);
  }
  const double ms = median(times);
  const double tokens = double(config.train.batch * config.train.accumulate * config.model.context);
  Json line{{"bench", "train"},
            {"name", config.name},
            {"device", name_of(device)},
            {"dtype", name_of(trainer.parameters().dtype())},
            {"score", config.attention.score},
            {"normalizer", config.attention.normalizer},
            {"layers", config.model.layers},
            {"dim", config.model.dim},
            {"vocab", config.model.vocab},
            {"params", trainer.parameters().count()},
            {"batch", config.train.batch},
            {"context", config.model.context},
            {"threads", trainer.context().threads},
            {"deterministic", trainer.context().deterministic},
            {"statistics", args.statistics},
            {"graph", device.type == DeviceType::cuda && !args.no_graph},
            {"ms", ms},
            {"tokens_per_s", tokens / ms * 1e3}};
  if (args.statistics) line["ms_without_statistics"] = median(times_without);
  fmt::print("{}\n", line.dump());
  return 0;
}

}  // namespace

void add_bench_train(CLI::App& bench, CommandBody& body) {
  auto args = std::make_shared<TrainArguments>();
  CLI::App* command = bench.add_subcommand(
      "train", "Optimizer steps of a GPT-2-shaped model (softmax, n = 0) or of a config");
  command->add_option("CONFIG", args->config, "YAML config; replaces the shape options");
  command->add_option("OVERRIDES", args->overrides, "section.key=value");
  command->add_option("--layers", args->layers)->capture_default_str();
  command->add_option("--heads", args->heads)->capture_default_str();
  command->add_option("--dim", args->dim)->capture_default_str();
  command->add_option("--context", args->context)->capture_default_str();
  command->add_option("--batch", args->batch)->capture_default_str();
  command->add_option("--vocab", args->vocab)->capture_default_str();
  command->add_option("--steps", args->steps)->capture_default_str();
  command->add_option("--warmup", args->warmup)->capture_default_str();
  command->add_option("--threads", args->threads, "0: all cores")->capture_default_str();
  command->add_option("--device", args->device, "train.device")->capture_default_str();
  command->add_option("--dtype", args->dtype, "train.dtype")->capture_default_str();
  command->add_flag("--deterministic", args->deterministic, "train.deterministic");
  command->add_flag("--statistics", args->statistics,
                    "Record statistics, on every other step, and time both");
  command->add_flag("--profile", args->profile,
                    "On a GPU: let a profiler see the last step (ncu --profile-from-start off)");
  command->add_flag("--no-graph", args->no_graph, "On a GPU: start kernels one by one");
  command->footer("Example: quietformer bench train --layers 4 --heads 4 --dim 256 --context 256");
  command->callback([args, &body] { body = [args] { return bench_train(*args); }; });
}

}  // namespace quietformer
