// The two benchmarks of `quietformer bench`; each registers its options and help like a command.
#pragma once

#include <string_view>
#include <vector>

#include "core/device.h"
#include "train/commands/command.h"

namespace quietformer {

void add_bench_attention(CLI::App& bench, CommandBody& body);
void add_bench_train(CLI::App& bench, CommandBody& body);

/// InputError naming the option unless `value` is 1 or more.
void expect_positive(std::string_view option, std::int64_t value);

/// Of an even number the upper of the two in the middle; `times` is not empty.
double median(std::vector<double> times);

/// "cpu", or the name of the GPU.
std::string name_of(Device device);

}  // namespace quietformer
