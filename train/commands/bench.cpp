#include "train/commands/bench.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>

#include "core/check.h"
#include "core/cuda/memory.h"

namespace quietformer {

void expect_positive(std::string_view option, std::int64_t value) {
  if (value < 1) throw InputError(fmt::format("{}: found {}, expected 1 or more", option, value));
}

double median(std::vector<double> times) {
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

std::string name_of(Device device) {
  if (device.type == DeviceType::cpu) return "cpu";
  for (const cuda::Gpu& gpu : cuda::gpus())
    if (gpu.index == device.index) return gpu.name;
  return fmt::format("cuda:{}", device.index);
}

void add_bench(CLI::App& app, CommandBody& body) {
  CLI::App* command = app.add_subcommand("bench", "Time attention or training; JSON lines");
  command->require_subcommand(1);
  command->footer("Example: quietformer bench attention --length 512 1024");
  add_bench_attention(*command, body);
  add_bench_train(*command, body);
}

}  // namespace quietformer
