#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <new>

#include "core/check.h"
#include "train/commands/command.h"
#include "train/stop_signal.h"

namespace quietformer {
namespace {

// One line, whatever a library put into its message.
int fail(const std::string& message, int status) {
  std::string line = message;
  for (char& c : line)
    if (c == '\n' || c == '\r') c = ' ';
  while (line.ends_with(' ')) line.pop_back();
  std::fflush(stdout);
  fmt::print(stderr, "quietformer: {}\n", line);
  return status;
}

}  // namespace

int run_command_line(int argc, const char* const* argv) {
  CLI::App app("Train transformers, exchange their attention, count their outliers.",
               "quietformer");
  app.require_subcommand(1);
  app.set_version_flag("--version", QUIETFORMER_VERSION);
  app.footer("Every command has --help with an example.");
  CommandBody body;
  for (const auto add : {add_train, add_eval, add_generate, add_stats, add_quantize, add_compare,
                         add_sweep, add_convert, add_inspect, add_bench})
    add(app, body);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& help) {  // --help, --version
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    return fail(fmt::format("{} (see --help)", error.what()), 2);
  }
  install_signal_handlers();
  try {
    return body();
  } catch (const Error& error) {
    return fail(error.what(), error.exit_status());
  } catch (const std::bad_alloc&) {
    return fail("out of memory", 1);
  } catch (const std::exception& error) {
    return fail(error.what(), 1);
  }
}

}  // namespace quietformer
