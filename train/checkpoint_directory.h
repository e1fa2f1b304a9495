// The checkpoints of a run: DIRECTORY/step_00001000.h5.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "train/checkpoint.h"

namespace quietformer {

/// Which checkpoint was best is an integer named kBestStep in every checkpoint, not a file of its
/// own: there is nothing that could disagree with the checkpoints after a kill.
class CheckpointDirectory {
 public:
  static constexpr const char* kBestStep = "best_step";

  /// The directory need not exist.
  explicit CheckpointDirectory(std::string directory) : directory_(std::move(directory)) {}

  static std::string file_name(std::int64_t step);  // "step_00001000.h5"
  std::string path_of(std::int64_t step) const;

  /// Steps of all files with such a name, ascending; whether they are valid is not looked at.
  std::vector<std::int64_t> steps() const;

  /// Writes one, after making the directory if need be. RunError on failure.
  void write(std::int64_t step, const Checkpoint& checkpoint) const;

  using Refused = std::function<void(const std::string& reason)>;
  /// The checkpoint of the highest step that is intact. `refused` hears of each one passed over;
  /// the reason is one line that names the file.
  std::optional<CheckpointReader> newest_valid(const Refused& refused) const;

  /// The path of the best checkpoint according to the newest valid one, if it is (still) there.
  std::optional<std::string> best(const Refused& refused) const;

  /// Removes checkpoints up to step `newest` except the last `keep` (at least 1) of them and
  /// `best`. Later ones are left alone: they are refused ones that a resumed run has yet to
  /// replace. What cannot be removed stays, with a warning.
  void prune(std::int64_t newest, int keep, std::optional<std::int64_t> best) const;

 private:
  std::string directory_;
};

}  // namespace quietformer
