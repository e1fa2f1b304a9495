#include "train/sweep.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "analysis/report.h"
#include "core/check.h"
#include "core/cuda/memory.h"
#include "core/file.h"
#include "core/log.h"
#include "train/checkpoint_directory.h"
#include "train/child_process.h"
#include "train/run_directory.h"
#include "train/stop_signal.h"

namespace quietformer {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr const char* kVisible = "CUDA_VISIBLE_DEVICES";
constexpr auto kGlance = std::chrono::milliseconds(20);  // between looks at the processes

std::vector<std::string> split(const std::string& list) {
  std::vector<std::string> parts(1);
  for (const char c : list) {
    if (c == ',')
      parts.emplace_back();
    else if (c != ' ')
      parts.back() += c;
  }
  return parts;
}

/// What CUDA_VISIBLE_DEVICES says in each of the processes that run side by side; "" is the CPU.
std::vector<std::string> places_of(const std::string& given, const std::string& device) {
  const auto refuse = [&](const std::string& expected) {
    throw InputError(fmt::format("--devices: found {}, expected {}", given, expected));
  };
  if (given == "cpu" || device == "cpu") {
    if (device == "cuda") refuse("GPUs: train.device is cuda");
    if (!given.empty() && given != "cpu") refuse("cpu: train.device is cpu");
    return {""};
  }
  const std::vector<cuda::Gpu> gpus = cuda::gpus();
  if (gpus.empty()) {
    if (!given.empty() || device == "cuda") throw RunError(cuda::unavailable());
    return {""};
  }
  std::vector<std::string> places;
  if (!given.empty()) {
    places = split(given);
  } else if (const char* visible = std::getenv(kVisible)) {
    places = split(visible);
    places.resize(std::min(places.size(), gpus.size()));
  } else {
    for (const cuda::Gpu& gpu : gpus) places.push_back(std::to_string(gpu.index));
  }
  for (std::size_t i = 0; i < places.size(); ++i)
    if (places[i].empty() || std::find(places.begin(), places.begin() + std::ptrdiff_t(i),
                                       places[i]) != places.begin() + std::ptrdiff_t(i))
      refuse("cpu, or GPUs such as 0,1, each once");
  return places;
}

/// Descriptors of a lock are shared with the processes started here, so it outlives this one as
/// long as they do.
class DirectoryLock {
 public:
  explicit DirectoryLock(const std::string& directory) {
    const std::string path = directory + "/.lock";
    file_ = open(path.c_str(), O_RDWR | O_CREAT, 0666);
    if (file_ < 0) throw RunError(fmt::format("{}: cannot open: {}", path, std::strerror(errno)));
    if (flock(file_, LOCK_EX | LOCK_NB) == 0) return;
    const int error = errno;
    close(file_);
    if (error != EWOULDBLOCK)
      throw RunError(fmt::format("{}: cannot lock: {}", path, std::strerror(error)));
    throw RunError(fmt::format("{}: another sweep, or a run that it left behind, is at work there",
                               directory));
  }
  DirectoryLock(const DirectoryLock&) = delete;
  DirectoryLock& operator=(const DirectoryLock&) = delete;
  ~DirectoryLock() { close(file_); }

 private:
  int file_ = -1;
};

std::string last_line(const std::string& path, std::uintmax_t from) {
  std::string text;
  try {
    text = read_file(path).substr(from);
  } catch (const std::exception&) {
    return "said nothing";
  }
  while (!text.empty() && text.back() == '\n') text.pop_back();
  std::string line = text.substr(text.rfind('\n') + 1);
  if (line.starts_with("quietformer: ")) line.erase(0, 13);
  return line.empty() ? "said nothing" : one_line(line);
}

class SweepRunner {
 public:
  SweepRunner(const Sweep& sweep, const SweepOptions& options)
      : sweep_(sweep), options_(options), states_(sweep.runs.size()) {
    for (std::string& place : places_of(options.devices, sweep.runs.at(0).config.train.device))
      workers_.push_back({std::move(place)});
  }
  int run();

 private:
  enum class Stage { train, quantize };
  struct Worker {
    std::string place;  // in CUDA_VISIBLE_DEVICES
    std::unique_ptr<ChildProcess> process = {};
    std::size_t run = 0;
    Stage stage = Stage::train;
    std::uintmax_t log_begin = 0;
    Clock::time_point begin = {};
  };
  struct State {
    bool taken = false, failed = false;
    bool foreign = false;  // its directory holds another config's run
  };

  RunDirectory directory(const SweepRun& run) const {
    return {sweep_.directory + "/runs/" + run.name()};
  }
  std::string quantized(const SweepRun& run) const {
    return directory(run).path + "/quantized.json";
  }
  std::string log(const SweepRun& run) const {
    return sweep_.directory + "/logs/" + run.name() + ".txt";
  }
  std::string config(const SweepRun& run) const {
    return sweep_.directory + "/configs/" + run.name() + ".yaml";
  }
  bool complete(const SweepRun& run) const { return fs::exists(directory(run).results()); }
  bool quantize_due(const SweepRun& run) const;
  void describe() const;
  bool take_next(Worker& worker);
  void start(Worker& worker, Stage stage);
  void trained(Worker& worker);
  void ended(Worker& worker, int status);
  void fail(std::size_t run, const std::string& what);
  void say(std::size_t run, const std::string& what) const;
  bool work();
  int compare();

  const Sweep& sweep_;
  const SweepOptions& options_;
  std::vector<Worker> workers_;
  std::vector<State> states_;
  int signal_ = 0;
};

/// Whether quantized.json is missing, older than a checkpoint, not ours, or of other schemes.
bool SweepRunner::quantize_due(const SweepRun& run) const {
  if (sweep_.schemes.empty()) return false;
  const std::string path = quantized(run);
  std::error_code error;
  const auto time = fs::last_write_time(path, error);
  if (error) return true;
  const CheckpointDirectory checkpoints(directory(run).checkpoints());
  for (const std::int64_t step : checkpoints.steps())
    if (fs::last_write_time(checkpoints.path_of(step), error) > time) return true;
  const auto json = nlohmann::json::parse(read_file(path), nullptr, false);
  if (!json.is_object() || !json.contains("schemes") || !json["schemes"].is_array()) return true;
  std::vector<std::string> there;
  for (const auto& entry : json["schemes"])
    if (entry.is_object()) there.push_back(entry.value("scheme", ""));
  return std::any_of(sweep_.schemes.begin(), sweep_.schemes.end(), [&](const std::string& scheme) {
    return std::find(there.begin(), there.end(), scheme) == there.end();
  });
}

void SweepRunner::describe() const {
  std::vector<std::string> names;
  for (const Worker& worker : workers_)
    names.push_back(worker.place.empty() ? "the CPU" : "GPU " + worker.place);
  fmt::print("{}: {} runs in {}, one at a time on {}\n", sweep_.name, sweep_.runs.size(),
             sweep_.directory, fmt::join(names, ", "));
  for (const SweepRun& run : sweep_.runs) {
    std::string what = "new";
    const auto steps = CheckpointDirectory(directory(run).checkpoints()).steps();
    if (complete(run))
      what = quantize_due(run) ? "complete, to be quantised" : "complete";
    else if (!steps.empty())
      what = fmt::format("step {} of {}", steps.back(), run.config.train.steps);
    fmt::print("  {}: {}\n", run.name(), what);
  }
}

void SweepRunner::say(std::size_t run, const std::string& what) const {
  fmt::print("[{}/{}] {}: {}\n", run + 1, sweep_.runs.size(), sweep_.runs[run].name(), what);
  std::fflush(stdout);
}

void SweepRunner::fail(std::size_t run, const std::string& what) {
  states_[run].failed = true;
  log_warning(fmt::format("{}: {}", sweep_.runs[run].name(), what));
}

/// The next run that is left, the first seed of every variant before the second. False: none.
/// What it throws is that run's failure.
bool SweepRunner::take_next(Worker& worker) {
  std::optional<std::size_t> next;
  std::size_t best = 0;
  for (std::size_t i = 0; i < sweep_.runs.size(); ++i) {
    if (states_[i].taken) continue;
    std::size_t round = 0;  // of this seed in its variant
    while (round < i && sweep_.runs[i - round - 1].variant == sweep_.runs[i].variant) ++round;
    if (!next || round < best) next = i, best = round;
  }
  if (!next) return false;
  states_[*next].taken = true;
  worker.run = *next;
  worker.begin = Clock::now();
  const SweepRun& run = sweep_.runs[*next];
  if (!complete(run)) {
    write_file_atomically(config(run), to_yaml(run.config));
    say(*next, worker.place.empty() ? "training" : "training on GPU " + worker.place);
    start(worker, Stage::train);
    return true;
  }
  states_[*next].foreign = true;  // until it is known to be ours
  const std::string path = directory(run).config();
  const auto changes = differences(run.config, parse_run_config(read_file(path), path));
  if (!changes.empty())
    throw InputError(
        fmt::format("{}: belongs to another config: {}", directory(run).path, changes[0]));
  states_[*next].foreign = false;
  say(*next, "complete already");
  trained(worker);
  return true;
}

void SweepRunner::start(Worker& worker, Stage stage) {
  const SweepRun& run = sweep_.runs[worker.run];
  ChildProcess::Request request;
  if (stage == Stage::train) {
    request.arguments = {"train", config(run), "--run-dir", directory(run).path, "--resume"};
  } else {
    request.arguments = {"quantize", directory(run).path, "--out", quantized(run)};
    for (const std::string& scheme : sweep_.schemes) {
      request.arguments.emplace_back("--scheme");
      request.arguments.push_back(scheme);
    }
  }
  request.environment = {{kVisible, worker.place}};
  request.output = log(run);
  std::error_code error;
  const std::uintmax_t size = fs::file_size(request.output, error);
  worker.log_begin = error ? 0 : size;
  worker.stage = stage;
  worker.process = std::make_unique<ChildProcess>(request);
}

/// What comes after training.
void SweepRunner::trained(Worker& worker) {
  const SweepRun& run = sweep_.runs[worker.run];
  if (signal_ != 0 || !quantize_due(run)) return;
  say(worker.run, "quantising");
  start(worker, Stage::quantize);
}

void SweepRunner::ended(Worker& worker, int status) {
  worker.process.reset();
  const SweepRun& run = sweep_.runs[worker.run];
  const bool training = worker.stage == Stage::train;
  if (status == 0) {
    const double seconds = std::chrono::duration<double>(Clock::now() - worker.begin).count();
    say(worker.run, fmt::format("{} after {:.1f} s", training ? "trained" : "quantised", seconds));
    if (training) trained(worker);
    return;
  }
  if (signal_ != 0) return;  // stopped with us
  const std::string reason = status > 128 ? fmt::format("ended by signal {}", status - 128)
                                          : last_line(log(run), worker.log_begin);
  fail(worker.run,
       fmt::format("{}: {} (see {})", training ? "train" : "quantize", reason, log(run)));
}

/// Until nothing is left or a signal came and everybody has saved. False: nothing was left to start
/// and nobody works.
bool SweepRunner::work() {
  bool busy = false;
  for (Worker& worker : workers_) {
    if (worker.process) {
      if (const std::optional<int> status = worker.process->poll()) ended(worker, *status);
    }
    for (bool more = true; more && !worker.process && signal_ == 0;) {
      try {
        more = take_next(worker);
      } catch (const Error& error) {
        fail(worker.run, error.what());
      }
    }
    busy = busy || worker.process != nullptr;
  }
  const int signal = stop_signal();
  if (signal != 0 && signal_ == 0) {
    signal_ = signal;
    for (const Worker& worker : workers_)
      if (worker.process) worker.process->signal(signal);
  }
  return busy;
}

/// The report over all complete runs; its exit status.
int SweepRunner::compare() {
  const std::string report = sweep_.directory + "/report";
  ChildProcess::Request request;
  request.arguments = {"compare"};
  for (std::size_t i = 0; i < sweep_.runs.size(); ++i)
    if (complete(sweep_.runs[i]) && !states_[i].foreign)
      request.arguments.push_back(directory(sweep_.runs[i]).path);
  if (request.arguments.size() == 1) return 0;  // nothing to compare: every run has failed
  std::vector<std::string> files{"--json", report + ".json", "--markdown", report + ".md"};
  const std::string why = why_no_report();
  if (why.empty())
    files.insert(files.end(), {"--out", report + ".html"});
  else
    log_warning(fmt::format("no report.html: {}", why));
  request.arguments.insert(request.arguments.end(), files.begin(), files.end());
  ChildProcess process(request);
  while (true) {
    if (const std::optional<int> status = process.poll()) {
      return *status;
    }
    if (signal_ == 0 && (signal_ = stop_signal()) != 0) process.signal(signal_);
    std::this_thread::sleep_for(kGlance);
  }
}

int SweepRunner::run() {
  describe();
  if (options_.dry_run) return 0;
  std::fflush(stdout);
  std::error_code error;
  for (const char* folder : {"/configs", "/runs", "/logs"})
    if (fs::create_directories(sweep_.directory + folder, error); error)
      throw RunError(
          fmt::format("{}{}: cannot create: {}", sweep_.directory, folder, error.message()));
  const DirectoryLock lock(sweep_.directory);
  while (work()) std::this_thread::sleep_for(kGlance);
  if (signal_ == 0 && compare() != 0 && signal_ == 0)
    throw RunError(fmt::format("{}: compare failed", sweep_.directory));
  if (signal_ != 0) {
    log_warning(fmt::format("{}: stopped by signal {}; the same command goes on", sweep_.directory,
                            signal_));
    return 128 + signal_;
  }
  std::vector<std::string> failed;
  for (std::size_t i = 0; i < states_.size(); ++i)
    if (states_[i].failed) failed.push_back(sweep_.runs[i].name());
  if (!failed.empty())
    throw RunError(fmt::format("{}: {} of {} runs failed: {}", sweep_.directory, failed.size(),
                               states_.size(), fmt::join(failed, ", ")));
  return 0;
}

}  // namespace

int run_sweep(const Sweep& sweep, const SweepOptions& options) {
  return SweepRunner(sweep, options).run();
}

}  // namespace quietformer
