#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "analysis/compare.h"
#include "analysis/report.h"
#include "core/check.h"
#include "core/file.h"
#include "core/log.h"
#include "train/commands/command.h"

namespace quietformer {
namespace {

struct CompareArguments {
  std::vector<std::string> runs;
  std::string page, json, csv, markdown;
  bool no_aggregate = false;
};

int run(const CompareArguments& args) {
  const std::string obstacle = args.page.empty() ? std::string() : why_no_report();
  if (!obstacle.empty()) throw InputError(fmt::format("--out {}: {}", args.page, obstacle));
  if (args.page == "-") throw InputError("--out: expected a file, found '-'");
  int on_stdout = 0;
  for (const std::string* file : {&args.json, &args.csv, &args.markdown}) on_stdout += *file == "-";
  if (on_stdout > 1)
    throw InputError("--json, --csv, --markdown: only one of them can go to standard output");

  const Comparison comparison = compare(read_run_records(args.runs),
                                        args.no_aggregate ? Grouping::none : Grouping::by_config);
  const auto write = [](const std::string& file, const std::string& text) {
    if (file == "-") {
      fmt::print("{}", text);
    } else if (!file.empty()) {
      write_file_atomically(file, text);
      std::fflush(stdout);  // or this line comes in the middle of the table
      log_info("wrote " + file);
    }
  };
  if (on_stdout == 0) fmt::print("{}", comparison_table(comparison));
  if (!args.json.empty()) write(args.json, comparison_json(comparison));
  if (!args.csv.empty()) write(args.csv, comparison_csv(comparison));
  if (!args.markdown.empty()) write(args.markdown, comparison_markdown(comparison));
  if (!args.page.empty()) write(args.page, report_page(comparison));
  return 0;
}

}  // namespace

void add_compare(CLI::App& app, CommandBody& body) {
  auto args = std::make_shared<CompareArguments>();
  CLI::App* command =
      app.add_subcommand("compare", "Finished runs side by side, as table, page, JSON, CSV");
  command->add_option("RUN_DIR", args->runs, "Run directories; deltas are to the first")
      ->required();
  command->add_option("--out", args->page, "Write an HTML page with charts; it opens offline");
  command->add_option("--json", args->json, "Write the numbers as JSON; - is standard output");
  command->add_option("--csv", args->csv, "Write the numbers as CSV; - is standard output");
  command->add_option("--markdown", args->markdown,
                      "Write the summary as Markdown; - is standard output");
  command->add_flag("--no-aggregate", args->no_aggregate,
                    "Every run by itself, also where only the seed differs");
  command->footer(
      "Example: quietformer compare runs/demo-softmax0 runs/demo-softmax1 --out report.html");
  command->callback([args, &body] { body = [args] { return run(*args); }; });
}

}  // namespace quietformer
