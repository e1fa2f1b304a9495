// One training run on disk: the loop, its log, checkpoints, evaluation and results.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "train/model_source.h"
#include "train/run_config.h"

namespace quietformer {

enum class Resume : std::uint8_t { no, yes };

struct RunOptions {
  std::string directory;  // absent or empty unless resuming
  Resume resume = Resume::no;
  const ModelSource* init = nullptr;  // where the weights start, unless a checkpoint is resumed
  bool terminal = false;              // standard output is a terminal: draw a progress line
  bool memory_report = false;         // print memory by named segment before the first step
  /// What results.json says of the program and the machine; the device is added.
  std::vector<std::pair<std::string, std::string>> environment = {};
};

/// Trains until config.train.steps and writes the run directory (train/run_directory.h). Everything
/// is checked before the directory is touched. Returns the exit status: 0, or 128 + signal when
/// SIGINT or SIGTERM ended the run after saving a checkpoint.
///
/// With `init` the parameters start as that model's (load_run_config() makes a config that goes
/// with it), and what its files say of it goes into every checkpoint; the optimizer starts anew.
///
/// Resume::yes continues from the newest valid checkpoint, bit for bit as if nothing had happened;
/// without any it starts at step 0 and says so; a complete run is left as it is (status 0).
/// InputError when the config differs from the run's in anything that matters.
int run_training(const RunConfig& config, const RunOptions& options);

}  // namespace quietformer
