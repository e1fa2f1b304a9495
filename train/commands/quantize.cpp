#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>

#include "core/check.h"
#include "core/file.h"
#include "train/commands/command.h"
#include "train/evaluation_text.h"
#include "train/quantization_report.h"
#include "train/quantize.h"

namespace quietformer {
namespace {

struct QuantizeArguments {
  std::string model, device = "auto", calibration, out;
  std::vector<std::string> schemes{"W8A8"};
  TextRequest text;
  QuantizationOptions options;
  bool json = false;
};

const std::map<std::string, WeightScales> kScales{{"tensor", WeightScales::tensor},
                                                  {"channel", WeightScales::channel}};
const std::map<std::string, WeightRange> kWeightRanges{{"minmax", WeightRange::minmax},
                                                       {"mse", WeightRange::mse}};
const std::map<std::string, RangeMethod> kRanges{{"minmax", RangeMethod::minmax},
                                                 {"percentile", RangeMethod::percentile},
                                                 {"mse", RangeMethod::mse}};

void parse_schemes(QuantizeArguments& args) {
  for (const std::string& name : args.schemes) {
    if (std::count(args.schemes.begin(), args.schemes.end(), name) > 1)
      throw InputError(fmt::format("--scheme: {}: given twice", name));
    args.options.schemes.push_back(parse_scheme(name));
  }
}

/// What to calibrate on: its own text, or the training part of the text at hand, or all of it where
/// nothing says which part that is.
struct CalibrationText {
  EvaluationText own;
  const EvaluationText* text;
  Span span;
  std::string split;

  CalibrationText(const LoadedModel& loaded, const QuantizeArguments& args,
                  const EvaluationText& at_hand)
      : text(&at_hand), span(at_hand.train.value_or(at_hand.span)) {
    split = at_hand.train ? "train" : at_hand.split;
    if (args.calibration.empty()) return;
    TextRequest request = args.text;
    request.data = args.calibration;
    request.split = split = "all";
    own = open_text(loaded, request);
    text = &own;
    span = own.span;
  }
  CalibrationText(const CalibrationText&) = delete;
  CalibrationText& operator=(const CalibrationText&) = delete;
};

/// Before the work, which may take long.
void check_out(const std::string& out) {
  const std::filesystem::path folder = std::filesystem::path(out).parent_path();
  if (!folder.empty() && !std::filesystem::is_directory(folder))
    throw InputError(fmt::format("--out: {}: no such directory {}", out, folder.string()));
}

int run(QuantizeArguments& args) {
  parse_schemes(args);
  check_out(args.out);
  LoadedModel loaded = load_for_quantization(args.model, args.device, args.options.sites);
  const EvaluationText text = open_text(loaded, args.text);
  const CalibrationText calibration(loaded, args, text);
  const QuantizationResult result =
      quantize(loaded, text, *calibration.text, calibration.span, args.options);
  const QuantizationReport report{
      loaded.path,       loaded.placement.text, loaded.step, &text, calibration.text->path,
      calibration.split, &args.options,         &result};
  const std::string json = quantization_json(report) + "\n";
  if (!args.out.empty()) write_file_atomically(args.out, json);
  fmt::print("{}", args.json ? json : quantization_table(report));
  return 0;
}

/// An option whose words stand for the values of an enum.
template <class Enum>
void add_choice(CLI::App* command, const std::string& name, Enum& value,
                const std::map<std::string, Enum>& words, const std::string& what) {
  command
      ->add_option_function<std::string>(
          name, [&value, &words](const std::string& word) { value = words.at(word); }, what)
      ->check(CLI::IsMember(words));
}

void add_text_options(CLI::App* command, QuantizeArguments& args) {
  command->add_option("--data", args.text.data,
                      "Another file than the run's data.path: text, or ids in a *.bin");
  command->add_option("--tokenizer", args.text.tokenizer,
                      "tokenizer.json or its directory (default: the model's own)");
  command
      ->add_option("--split", args.text.split,
                   "Part by the run's data.split (default test; with --data the whole file)")
      ->check(CLI::IsMember({"train", "validation", "test", "all"}));
  command->add_option("--mask-token", args.text.mask_token,
                      "Id of an encoder's mask (default: data.mlm.mask_token of its run)");
  command
      ->add_option("--batches", args.options.batches,
                   "Batches to evaluate on, spread evenly; 0: the whole split")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--calibration", args.calibration,
                      "File to take ranges from (default: the training part of the data, or with "
                      "--data alone that file)");
  command
      ->add_option("--calibration-batches", args.options.calibration_batches,
                   "Batches to take ranges from, spread evenly")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
}

void add_grid_options(CLI::App* command, QuantizeArguments& args) {
  QuantizationOptions& options = args.options;
  command
      ->add_option("--scheme", args.schemes,
                   "W<bits>A<bits>, 2 to 16 bits of weights and of activations, 16: left in float "
                   "(default W8A8); may be repeated")
      ->allow_extra_args(false);
  add_choice(command, "--per", options.weight_scales, kScales,
             "Weights have one scale per tensor (default) or per output channel");
  add_choice(command, "--weight-range", options.weight_range, kWeightRanges,
             "Range of weights: minmax (default) or mse");
  add_choice(command, "--range", options.range, kRanges,
             "Range of activations: minmax (default), percentile or mse");
  command->add_option("--percentile", options.percentile, "For --range percentile: 50 < P <= 100")
      ->check(CLI::Range(50.0001, 100.0))
      ->capture_default_str();
  command
      ->add_option("--momentum", options.momentum,
                   "For --range minmax: running averages over batches, r = M r + (1 - M) batch; 0: "
                   "the extremes of all")
      ->check(CLI::Range(0.0, 0.9999))
      ->capture_default_str();
  command->add_flag("--attention", options.sites.attention,
                    "Also q, k, v and weights of attention (unfused, slower)");
  command->add_flag("--head", options.sites.head, "Also the product with the vocabulary");
  command->add_flag("--leave-one-out,!--no-leave-one-out", options.leave_one_out,
                    "The loss with each site left in float (default)");
  command
      ->add_option("--site-batches", options.site_batches,
                   "Batches to evaluate each site on; 0: as --batches")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
}

}  // namespace

void add_quantize(CLI::App& app, CommandBody& body) {
  auto args = std::make_shared<QuantizeArguments>();
  CLI::App* command = app.add_subcommand(
      "quantize", "Loss of a model with weights and activations rounded to a few bits");
  command
      ->add_option("CHECKPOINT", args->model, "Checkpoint, run directory or Hugging Face directory")
      ->required();
  add_grid_options(command, *args);
  add_text_options(command, *args);
  command->add_option("--device", args->device, "auto, cpu, cuda or cuda:N")->capture_default_str();
  command->add_flag("--json", args->json, "One JSON object");
  command->add_option("--out", args->out, "Also write the JSON object to this file");
  command->footer(
      "Example: quietformer quantize runs/demo-softmax1 --scheme W8A8 --scheme W4A8 --per channel "
      "--out runs/demo-softmax1/quantized.json");
  command->callback([args, &body] { body = [args] { return run(*args); }; });
}

}  // namespace quietformer
