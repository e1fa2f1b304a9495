// Model, optimizer, data and statistics of one run, in memory; train/run.h does the files around
// it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "analysis/activation_statistics.h"
#include "core/buffer.h"
#include "core/context.h"
#include "core/parameter.h"
#include "data/sampler.h"
#include "data/source.h"
#include "data/split.h"
#include "layers/language_model.h"
#include "optim/clip.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"
#include "optim/step_state.h"
#include "train/batch_feed.h"
#include "train/checkpoint.h"
#include "train/evaluate.h"
#include "train/model_source.h"
#include "train/placement.h"
#include "train/recorded_work.h"
#include "train/run_config.h"

namespace quietformer {

/// Whether a step's loss and gradient norm are wanted: on a GPU the host waits for them.
enum class Report : std::uint8_t { no, yes };

/// What one optimizer step did.
struct StepReport {
  std::int64_t step = 0;  // completed steps, this one included
  double loss = 0;        // nats per predicted token, mean over micro-steps
  double grad_norm = 0;   // before clipping; not finite in a step that fp16's loss scaling left out
  double learning_rate = 0;
  double loss_scale = 1;  // of fp16, after it
  double skipped = 0;     // steps that fp16's loss scaling has left out so far
  bool known = true;      // loss and grad_norm are: on a GPU with Report::yes, on the CPU always
};

class Trainer {
 public:
  /// Builds everything: opens the data, allocates, initialises parameters from the seed. InputError
  /// for anything wrong with config or data, RunError without the device or its memory. Afterwards
  /// a step allocates nothing; on a GPU from the third one on (with statistics, and without), the
  /// second one being recorded. There
  /// all steps are asked for by the thread that built this.
  explicit Trainer(const RunConfig& config, Recording recording = Recording::yes);
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  /// One optimizer step: train.accumulate micro-batches, clipping, update. With `statistics` the
  /// forward passes are looked at. RunError when the gradient norm is not finite; the parameters
  /// then are as before the step.
  ///
  /// On a GPU without Report::yes the host waits for nothing; the next batch is filled and sent
  /// meanwhile. A step that diverges then changes no parameter, nor does any after it, and the next
  /// one with Report::yes (or snapshot()) throws. In fp16 a gradient norm that is not finite leaves
  /// out the step and halves the loss scale; RunError when the loss is not finite or nothing is
  /// left of the scale.
  StepReport step(ActivationStatistics* statistics, Report report = Report::yes);

  /// Mean loss over a span; `limit` batches of evenly spread windows, 0 = all.
  Evaluation evaluate(Span span, std::int64_t limit, ActivationStatistics* statistics = nullptr);

  /// Forward passes over some sequences of a span, spread evenly, one by one, for what `sink` makes
  /// of them. No step is disturbed. Allocates.
  void observe(Span span, std::int64_t sequences, ActivationSink& sink);

  std::int64_t completed_steps() const { return step_; }
  const RunConfig& config() const { return config_; }
  const Split& split() const { return split_; }
  const ParameterList& parameters() const { return parameters_; }
  const Context& context() const { return ctx_; }
  const Placement& placement() const { return placement_; }
  std::string_view attention_implementation() const { return model_->attention_implementation(); }
  bool byte_level() const;

  /// Parameters (their masters), optimizer state, loss scaling and step. The tensors are views, of
  /// the device's memory on a GPU: use it before the next step. RunError after a step that
  /// diverged.
  Checkpoint snapshot() const;
  /// The reverse, whatever device and 16- or 32-bit type the checkpoint comes from. InputError
  /// naming file and tensor when something is missing or of another shape.
  void restore(const CheckpointReader& checkpoint);

  /// Takes a model's parameters, at step 0. Returns those that it lacks and that start as
  /// configured (fill_parameters()).
  std::vector<std::string> start_from(const ModelSource& model);

  /// Parameters, gradients, optimizer and activations in MiB, one line.
  std::string memory_summary() const;
  /// The same by named segment.
  std::string memory_report() const;

 private:
  void send(std::int64_t step, std::int64_t micro);
  TokenBatch next_batch(std::int64_t micro);
  double run_micro_batches(ActivationStatistics* statistics);
  double micro_batch_on_cpu(const TokenBatch& batch);
  void micro_batch_on_gpu(const TokenBatch& batch, ActivationStatistics* statistics);
  StepReport step_on_cpu(ActivationStatistics* statistics);
  StepReport step_on_gpu(ActivationStatistics* statistics, Report wanted);
  void expect_progress(const StepValues& values, double loss) const;

  RunConfig config_;
  Placement placement_;
  cuda::Stream stream_;
  Context ctx_;
  std::unique_ptr<TokenSource> source_;
  std::optional<Masking> masking_;  // of an encoder's tokens
  Split split_;
  ParameterList parameters_;
  std::unique_ptr<LanguageModel> model_;
  Arena activations_;
  BatchFeed feed_;
  // On a GPU: f64 (1), the numbers of a step, where dropout's streams stand, and what is recorded.
  Slot loss_sum_;
  std::unique_ptr<StepState> state_;
  OwnedTensor places_;
  Recording recording_;
  RecordedWork micro_batch_, update_;
  RecordedWork observed_batch_;  // a micro-batch with statistics, of this layout
  std::shared_ptr<const int> observed_layout_;
  std::unique_ptr<Optimizer> optimizer_;
  std::unique_ptr<GradientClip> clip_;
  Schedule schedule_;
  std::unique_ptr<Sampler> sampler_;
  std::int64_t step_ = 0;
};

}  // namespace quietformer
