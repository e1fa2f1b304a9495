// Model, optimizer, data and statistics of one run, in memory; train/run.h does the files around
// it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "analysis/activation_statistics.h"
#include "core/buffer.h"
#include "core/context.h"
#include "core/parameter.h"
#include "data/sampler.h"
#include "data/source.h"
#include "data/split.h"
#include "layers/gpt.h"
#include "optim/clip.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"
#include "train/checkpoint.h"
#include "train/evaluate.h"
#include "train/run_config.h"

namespace quietformer {

/// What one optimizer step did.
struct StepReport {
  std::int64_t step = 0;  // completed steps, this one included
  double loss = 0;        // nats per token, mean over the step's tokens
  double grad_norm = 0;   // before clipping
  double learning_rate = 0;
};

class Trainer {
 public:
  /// Builds everything: opens the data, allocates, initialises parameters from the seed. InputError
  /// for anything wrong with config or data. Afterwards a step allocates nothing.
  explicit Trainer(const RunConfig& config);
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  /// One optimizer step: train.accumulate micro-batches, clipping, update. With `statistics` the
  /// forward passes are recorded. RunError when the gradient norm is not finite; the parameters
  /// then are as before the step.
  StepReport step(ActivationStatistics* statistics);

  /// Mean loss over a span; `limit` batches of evenly spread windows, 0 = all.
  Evaluation evaluate(Span span, std::int64_t limit, ActivationStatistics* statistics = nullptr);

  std::int64_t completed_steps() const { return step_; }
  const RunConfig& config() const { return config_; }
  const Split& split() const { return split_; }
  const ParameterList& parameters() const { return parameters_; }
  const Context& context() const { return ctx_; }
  bool byte_level() const;

  /// Parameters, optimizer state and step. The tensors are views: use it before the next step.
  Checkpoint snapshot() const;
  /// The reverse. InputError naming file and tensor when something is missing or of another shape.
  void restore(const CheckpointReader& checkpoint);

  /// Parameters, gradients, optimizer and activations in MiB, one line.
  std::string memory_summary() const;
  /// The same by named segment.
  std::string memory_report() const;

 private:
  RunConfig config_;
  Context ctx_;
  std::unique_ptr<TokenSource> source_;
  Split split_;
  ParameterList parameters_;
  Gpt model_;
  Arena activations_{"activations"};
  Slot inputs_, targets_;
  std::unique_ptr<Optimizer> optimizer_;
  std::unique_ptr<GradientClip> clip_;
  Schedule schedule_;
  std::unique_ptr<Sampler> sampler_;
  std::int64_t step_ = 0;
};

/// Threads that train.threads asks for: 0 means all available.
int thread_count(std::int64_t configured);

/// The type of parameters and activations that train.dtype names on the CPU.
DType compute_dtype(const std::string& name);

}  // namespace quietformer
