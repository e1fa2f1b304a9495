// A sweep: variants of one config, each trained with several seeds. docs/sweeps.md describes the
// file.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "train/run_config.h"

namespace quietformer {

struct SweepRun {
  std::string variant;
  std::uint64_t seed = 1;
  RunConfig config;          // valid; its name is the variant's, its train.seed the seed
  std::string name() const;  // "softmax_1-seed2", of its directory and files
};

struct Sweep {
  std::string name;
  std::string directory;             // everything is written there
  std::vector<std::string> schemes;  // of quantize, "W8A8"; empty: nothing is quantised
  std::vector<SweepRun> runs;        // variants in the file's order, of each its seeds
};

/// InputError with file and line for an unknown key (naming the nearest), a wrong type, names that
/// cannot be directories, keys that the sweep itself sets, and every config that is not valid.
Sweep read_sweep(const std::string& path);

}  // namespace quietformer
