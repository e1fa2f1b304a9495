#include "train/run.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "analysis/event_file.h"
#include "analysis/final_statistics.h"
#include "analysis/history.h"
#include "analysis/quantities.h"
#include "analysis/results.h"
#include "analysis/weight_statistics.h"
#include "core/check.h"
#include "core/file.h"
#include "core/log.h"
#include "train/checkpoint_directory.h"
#include "train/progress.h"
#include "train/run_directory.h"
#include "train/stop_signal.h"
#include "train/trainer.h"

namespace quietformer {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// stats.h5 is written before its checkpoint, so it reaches at least as far; without it the run
// itself can go on, its earlier statistics cannot come back.
StatisticsHistory load_history(const std::string& path, std::int64_t last_step) {
  StatisticsHistory history;
  try {
    if (std::filesystem::exists(path)) history = StatisticsHistory::load(path);
  } catch (const InputError& error) {
    log_warning(fmt::format("{}; statistics before step {} are lost", error.what(), last_step + 1));
  }
  history.cut_back(last_step);
  return history;
}

// The extremes over all sites, so that a log alone shows when outliers appear; stats.h5 has it all.
void add_summary(nlohmann::ordered_json& line, std::span<const SiteStatistics> sites) {
  double kurtosis = -std::numeric_limits<double>::infinity(), max_abs = 0;
  for (const SiteStatistics& site : sites) {
    if (site.kind != SiteKind::activation || site.all.samples == 0) continue;
    kurtosis = std::max(kurtosis, site.all.average(&SampleSums::kurtosis));
    max_abs = std::max(max_abs, site.all.pooled.max_abs);
  }
  if (std::isfinite(kurtosis)) line["max_kurtosis"] = kurtosis;
  line["max_abs"] = max_abs;
  const double sink_mass = mean_mass(sites, "sink_mass");
  if (std::isfinite(sink_mass)) line["sink_mass"] = sink_mass;
}

// The numbers of a line of the log as TensorBoard groups them: train/loss, validation/loss.
void add_scalars(std::vector<NamedValue>& scalars, const nlohmann::ordered_json& line) {
  constexpr std::string_view kValidation = "validation_";
  for (const auto& [key, value] : line.items()) {
    if (!value.is_number() || key == "step") continue;
    const std::string tag = key.starts_with(kValidation)
                                ? "validation/" + key.substr(kValidation.size())
                                : "train/" + key;
    scalars.push_back({tag, value.get<double>()});
  }
}

// kurtosis/blocks.0.mlp.output: a group holds one quantity of all sites.
void add_scalars(std::vector<NamedValue>& scalars, std::span<const SiteStatistics> sites) {
  for (const SiteStatistics& site : sites)
    visit_quantities(site, [&](const Quantity& quantity, std::span<const double> values) {
      if (quantity.kind != Quantity::Kind::by_head && std::isfinite(values[0]))
        scalars.push_back({fmt::format("{}/{}", quantity.name, site.site), values[0]});
    });
}

bool due(std::int64_t step, std::int64_t every) {
  return every > 0 && step % every == 0;
}

class Run {
 public:
  Run(const RunConfig& config, const RunOptions& options);
  int train();

 private:
  bool resume();
  void start();
  void report_start() const;
  void warn_of_unmatched_sites();
  bool report_due(bool analyse) const;
  void after_step(const StepReport& report, bool analysed);
  void save();
  std::optional<FinalResults> look_closely();
  void finish();
  int interrupted(int signal);
  double seconds() const { return seconds_before_ + seconds_since(begin_); }

  RunConfig config_;
  RunOptions options_;
  RunDirectory directory_;
  Trainer trainer_;
  ActivationStatistics statistics_;
  StatisticsHistory history_;
  CheckpointDirectory checkpoints_;
  std::unique_ptr<RunLog> log_;
  std::unique_ptr<EventFile> events_;  // null: not asked for
  Progress progress_;
  std::map<std::string, std::string> carried_;  // texts of every checkpoint, besides the config
  double best_loss_ = std::numeric_limits<double>::infinity();
  std::int64_t best_step_ = -1;  // of best_loss_; -1: not evaluated yet
  std::int64_t saved_step_ = -1;
  std::int64_t first_step_ = 0;
  bool sites_checked_ = false;
  double seconds_before_ = 0;  // of earlier processes of this run
  double step_seconds_ = 0;    // spent in steps by this process
  Clock::time_point begin_ = Clock::now();
};

Run::Run(const RunConfig& config, const RunOptions& options)
    : config_(config),
      options_(options),
      directory_{options.directory},
      trainer_(config),
      statistics_(config.analysis, config.model.heads),
      checkpoints_(directory_.checkpoints()),
      progress_(config.train.steps, options.terminal) {}

// Puts everything back to the newest valid checkpoint. False: the run is complete already.
bool Run::resume() {
  namespace fs = std::filesystem;
  if (directory_.barely_begun()) {
    remove_stale_temporaries(directory_.path);
    progress_.say(fmt::format("{}: nothing to resume, starting at step 0", directory_.path));
    return true;
  }
  if (!fs::exists(directory_.config()))
    throw InputError(
        fmt::format("{}: no config.yaml, expected a run directory to resume", directory_.path));
  const RunConfig earlier = parse_run_config(read_file(directory_.config()), directory_.config());
  const std::vector<std::string> changes = differences(config_, earlier);
  if (!changes.empty())
    throw InputError(fmt::format("{}: belongs to another config: {}", directory_.path, changes[0]));
  if (fs::exists(directory_.results())) return false;
  remove_stale_temporaries(directory_.path);
  remove_stale_temporaries(directory_.checkpoints());

  const std::optional<CheckpointReader> checkpoint =
      checkpoints_.newest_valid([](const std::string& reason) { log_warning(reason); });
  if (!checkpoint) {
    progress_.say(fmt::format("{}: no valid checkpoint, starting at step 0", directory_.path));
    return true;
  }
  trainer_.restore(*checkpoint);
  carried_ = checkpoint->texts();
  carried_.erase("config");
  best_loss_ = checkpoint->number("best_validation_loss");
  best_step_ = checkpoint->integer(CheckpointDirectory::kBestStep);
  seconds_before_ = checkpoint->number("seconds");
  std::vector<NamedValue> references;
  for (const auto& [name, value] : checkpoint->numbers())
    if (name.starts_with("statistics/")) references.push_back({name.substr(11), value});
  statistics_.restore(references);
  history_ = load_history(directory_.stats(), trainer_.completed_steps());
  saved_step_ = first_step_ = trainer_.completed_steps();
  progress_.say(fmt::format("{}: resuming at step {}", checkpoint->path(), first_step_));
  return true;
}

/// At step 0.
void Run::start() {
  if (options_.init == nullptr) return;
  const std::vector<std::string> started = trainer_.start_from(*options_.init);
  carried_ = texts_of(*options_.init);
  progress_.say(fmt::format(
      "{}: starting from {}{}", config_.name, options_.init->path,
      started.empty() ? "" : fmt::format("; {} start as configured", fmt::join(started, ", "))));
}

void Run::report_start() const {
  fmt::print("{}: on {}, attention {}; {}\n", config_.name, trainer_.placement().text,
             trainer_.attention_implementation(), trainer_.memory_summary());
  if (options_.memory_report) fmt::print("{}", trainer_.memory_report());
  std::fflush(stdout);
}

int Run::train() {
  if (options_.resume == Resume::yes) {
    if (!resume()) {
      progress_.say(fmt::format("{}: complete, nothing to do", directory_.path));
      return 0;
    }
  } else if (!directory_.vacant()) {
    throw InputError(
        fmt::format("{}: exists and is not empty (continue it with --resume)", directory_.path));
  }
  if (trainer_.completed_steps() == 0) start();
  directory_.create();
  write_file_atomically(directory_.config(), to_yaml(config_));
  log_ = std::make_unique<RunLog>(directory_.log(), trainer_.completed_steps());
  if (config_.train.tensorboard)
    events_ = std::make_unique<EventFile>(directory_.tensorboard(), trainer_.completed_steps() + 1);
  report_start();
  begin_ = Clock::now();
  while (trainer_.completed_steps() < config_.train.steps) {
    if (const int signal = stop_signal()) return interrupted(signal);
    const bool analyse = due(trainer_.completed_steps() + 1, config_.analysis.every);
    const Clock::time_point step_begin = Clock::now();
    if (analyse) statistics_.begin_step();
    const StepReport report = trainer_.step(analyse ? &statistics_ : nullptr,
                                            report_due(analyse) ? Report::yes : Report::no);
    if (analyse) {
      statistics_.end_step();
      warn_of_unmatched_sites();
    }
    step_seconds_ += seconds_since(step_begin);
    if (report.known) after_step(report, analyse);
  }
  if (const int signal = stop_signal()) return interrupted(signal);
  finish();
  return 0;
}

void Run::warn_of_unmatched_sites() {
  if (std::exchange(sites_checked_, true)) return;
  for (const std::string& pattern : statistics_.unmatched())
    log_warning(fmt::format("analysis.sites: no activation matches '{}'", pattern));
}

/// Whether the next step's loss is of use to anybody: a GPU need not be waited for otherwise.
bool Run::report_due(bool analyse) const {
  const TrainConfig& train = config_.train;
  const std::int64_t step = trainer_.completed_steps() + 1;
  return analyse || step == 1 || step == train.steps || due(step, train.log_every) ||
         due(step, train.eval_every) || due(step, train.checkpoint_every);
}

void Run::after_step(const StepReport& report, bool analysed) {
  const TrainConfig& train = config_.train;
  const bool last = report.step == train.steps;
  const bool logged = last || report.step == 1 || due(report.step, train.log_every);
  const bool evaluated = last || due(report.step, train.eval_every);
  if (analysed) history_.add(report.step, statistics_.latest());

  nlohmann::ordered_json line{{"step", report.step}, {"loss", report.loss}};
  const bool bytes = trainer_.byte_level();
  if (bytes) line["bits_per_byte"] = bits_per_byte(report.loss);
  line["learning_rate"] = report.learning_rate;
  line["grad_norm"] = report.grad_norm;  // null where not finite: JSON has no such numbers
  if (trainer_.parameters().dtype() == DType::f16) {
    line["loss_scale"] = report.loss_scale;
    line["skipped_steps"] = static_cast<std::int64_t>(report.skipped);
  }
  bool best = false;
  if (evaluated) {
    const double loss = trainer_.evaluate(trainer_.split().validation, train.eval_batches).loss;
    line["validation_loss"] = loss;
    if (bytes) line["validation_bits_per_byte"] = bits_per_byte(loss);
    best = loss < best_loss_;
    if (best) best_loss_ = loss, best_step_ = report.step;
    progress_.say(
        fmt::format("step {}: validation loss {:.4f}{}", report.step, loss,
                    bytes ? fmt::format(" ({:.3f} bits/byte)", bits_per_byte(loss)) : ""));
  }
  if (analysed) add_summary(line, statistics_.latest());
  const double tokens = double(train.batch * train.accumulate * config_.model.context);
  // Evaluation and checkpoints are left out: their share depends on how often they are asked for.
  const double rate = double(report.step - first_step_) / step_seconds_;
  line["tokens_per_second"] = rate * tokens;
  line["seconds"] = seconds();
  if (logged || evaluated) log_->write(line.dump());
  if (events_ && (logged || evaluated || analysed)) {
    std::vector<NamedValue> scalars;
    if (logged || evaluated) add_scalars(scalars, line);
    if (analysed) add_scalars(scalars, statistics_.latest());
    events_->write(report.step, scalars);
  }
  progress_.update({report.step, report.loss, bytes ? bits_per_byte(report.loss) : 0,
                    report.learning_rate, rate * tokens, double(train.steps - report.step) / rate},
                   logged);
  if (last || best || due(report.step, train.checkpoint_every)) save();
}

void Run::save() {
  const std::int64_t step = trainer_.completed_steps();
  history_.write(directory_.stats());
  Checkpoint checkpoint = trainer_.snapshot();
  checkpoint.text.insert(carried_.begin(), carried_.end());
  checkpoint.integers[CheckpointDirectory::kBestStep] = best_step_;
  checkpoint.numbers["best_validation_loss"] = best_loss_;
  checkpoint.numbers["seconds"] = seconds();
  for (const NamedValue& value : statistics_.state())
    checkpoint.numbers["statistics/" + value.name] = value.value;
  checkpoints_.write(step, checkpoint);
  checkpoints_.prune(step, static_cast<int>(config_.train.keep), best_step_);
  saved_step_ = step;
}

int Run::interrupted(int signal) {
  if (saved_step_ != trainer_.completed_steps() && trainer_.completed_steps() > 0) save();
  log_warning(fmt::format("{}: stopped by signal {} after step {}; continue with --resume",
                          directory_.path, signal, trainer_.completed_steps()));
  return 128 + signal;
}

/// A finished run is not lost for want of memory here.
std::optional<FinalResults> Run::look_closely() {
  if (config_.analysis.final_sequences == 0) return std::nullopt;
  FinalStatistics statistics(config_.analysis);
  try {
    trainer_.observe(trainer_.split().validation, config_.analysis.final_sequences, statistics);
  } catch (const RunError& error) {
    log_warning(fmt::format("{}; left out: what analysis.final_sequences asks for", error.what()));
    return std::nullopt;
  }
  return statistics.results();
}

// Whole validation and test spans; activation statistics over the validation span, so that they
// describe the final weights on text that was not trained on.
void Run::finish() {
  RunResults results;
  results.bytes = trainer_.byte_level();
  results.environment = options_.environment;
  results.environment.emplace_back("device", trainer_.placement().text);
  statistics_.begin_step();
  const Evaluation validation = trainer_.evaluate(trainer_.split().validation, 0, &statistics_);
  statistics_.end_step();
  const Evaluation test = trainer_.evaluate(trainer_.split().test, 0);
  results.losses = {{"validation", validation.loss}, {"test", test.loss}};
  results.activations = statistics_.latest();
  const auto weights = weight_statistics(trainer_.context(), trainer_.parameters());
  results.weights = weights;
  const std::optional<FinalResults> final = look_closely();
  results.final = final ? &*final : nullptr;
  history_.write(directory_.stats(), results.final);
  write_results(directory_.results(), results);
  for (const SplitLoss& split : results.losses)
    progress_.say(fmt::format(
        "{}: {} loss {:.4f}{}", config_.name, split.split, split.loss,
        results.bytes ? fmt::format(" ({:.4f} bits/byte)", bits_per_byte(split.loss)) : ""));
  progress_.say(fmt::format("{}: wrote {}", config_.name, directory_.results()));
}

}  // namespace

int run_training(const RunConfig& config, const RunOptions& options) {
  if (config.train.tensorboard && !event_files_built())
    throw InputError(
        "train.tensorboard: found true, expected false: event files need protobuf, which this "
        "build has not (install libprotobuf-dev and protobuf-compiler, and configure again)");
  return Run(config, options).train();
}

}  // namespace quietformer
