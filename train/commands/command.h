// One function per command: registers its options and help, and what to do when it is chosen.
#pragma once

#include <functional>
#include <string>

namespace CLI {
class App;
}

namespace quietformer {

/// What a chosen command will run; returns the exit status.
using CommandBody = std::function<int()>;

// Each adds a subcommand to `app` and sets `body` when that subcommand was given.
void add_train(CLI::App& app, CommandBody& body);
void add_eval(CLI::App& app, CommandBody& body);
void add_generate(CLI::App& app, CommandBody& body);
void add_stats(CLI::App& app, CommandBody& body);
void add_compare(CLI::App& app, CommandBody& body);
void add_sweep(CLI::App& app, CommandBody& body);
void add_convert(CLI::App& app, CommandBody& body);
void add_inspect(CLI::App& app, CommandBody& body);
void add_quantize(CLI::App& app, CommandBody& body);
void add_bench(CLI::App& app, CommandBody& body);

/// Parses the command line, runs, and maps every error to one line on standard error and an exit
/// status: 0 success, 1 the run failed, 2 bad usage or input, 128 + signal.
int run_command_line(int argc, const char* const* argv);

}  // namespace quietformer
