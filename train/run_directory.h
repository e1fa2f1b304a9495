// The directory of one run, and its log.
//
//   config.yaml      the fully resolved config
//   log.jsonl        one JSON object per logged step
//   stats.h5         activation statistics over time
//   tensorboard/     event files (analysis/event_file.h), with train.tensorboard
//   results.json     final losses and statistics; its presence means that the run is complete
//   checkpoints/     step_00001000.h5, ...
#pragma once

#include <cstdint>
#include <string>

namespace quietformer {

struct RunDirectory {
  std::string path;
  std::string config() const { return path + "/config.yaml"; }
  std::string log() const { return path + "/log.jsonl"; }
  std::string stats() const { return path + "/stats.h5"; }
  std::string tensorboard() const { return path + "/tensorboard"; }
  std::string results() const { return path + "/results.json"; }
  std::string checkpoints() const { return path + "/checkpoints"; }

  /// Absent or an empty directory: free for a new run. InputError when it is something else than a
  /// directory.
  bool vacant() const;
  /// Whether it holds no more than what a process killed before writing config.yaml leaves: an
  /// empty checkpoints/ and temporaries. Absent and empty directories count.
  bool barely_begun() const;
  /// Creates the directories. RunError naming path and reason.
  void create() const;
};

/// log.jsonl, appended with one write per line, so that a killed process leaves at most one cut
/// line.
class RunLog {
 public:
  /// Opens for appending after dropping every line of a step above `last_step` and a cut last line
  /// (atomically, through a temporary file). A line that is no JSON object with "step" is an
  /// InputError naming file and line.
  RunLog(const std::string& path, std::int64_t last_step);
  RunLog(const RunLog&) = delete;
  RunLog& operator=(const RunLog&) = delete;
  ~RunLog();

  /// Appends one line (a JSON object without newline). RunError when it can't be written whole.
  void write(const std::string& json);

 private:
  std::string path_;
  int file_ = -1;
};

}  // namespace quietformer
