// Runs of a sweep, on the devices of this machine.
//
//   DIRECTORY/configs/NAME.yaml   the resolved config of each run, which train is given
//   DIRECTORY/runs/NAME/          its run directory, and in it quantized.json
//   DIRECTORY/logs/NAME.txt       what train and quantize said
//   DIRECTORY/report.html, .json, .md   the comparison of all complete runs
//   DIRECTORY/.lock               held as long as anybody works there
#pragma once

#include <string>

#include "train/sweep_file.h"

namespace quietformer {

struct SweepOptions {
  /// "cpu", or what CUDA_VISIBLE_DEVICES would list: "0,1". Empty: the GPUs of this machine that
  /// this process may use, or the CPU where there is none or the configs want it.
  std::string devices;
  bool dry_run = false;  // says what there is to do, touches nothing
};

/// Trains what is not complete (resuming what was begun), quantises what has no quantized.json of
/// its newest checkpoint and its schemes, and compares. Each is a process of this program: one run
/// at a time on a GPU, or on the CPU. A run that fails is one line on standard error, and the
/// others go on.
///
/// SIGINT and SIGTERM are handed on; runs save and end, and the exit status is 128 + signal. Else
/// 0, or RunError naming the runs that failed. RunError when another sweep, or a run that one left
/// behind, is at work in the directory.
int run_sweep(const Sweep& sweep, const SweepOptions& options);

}  // namespace quietformer
