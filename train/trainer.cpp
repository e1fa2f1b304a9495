#include "train/trainer.h"

#include <fmt/format.h>

#include <cmath>

#include "core/check.h"
#include "core/cuda/workspace.h"
#include "data/windows.h"
#include "train/cuda/operations.h"
#include "train/text.h"

namespace quietformer {

namespace {

/// Of fp16's loss scaling, which starts at 2^16: gradients that overflow here are no accident.
constexpr double kLeastLossScale = 0x1p-10;

// Numbers of a checkpoint of fp16.
constexpr const char* kLossScale = "loss_scale";
constexpr const char* kGoodSteps = "loss_scale_good_steps";
constexpr const char* kSkippedSteps = "skipped_steps";

RunError diverged(std::int64_t step, double loss, double norm) {
  return RunError(fmt::format(
      "step {}: diverged: loss {}, gradient norm {}; expected finite numbers", step, loss, norm));
}

/// Streams are a GPU's.
cuda::Stream make_stream(Device device) {
  return device.type == DeviceType::cuda ? cuda::Stream(device) : cuda::Stream();
}

Context make_context(const RunConfig& config, const Placement& placement,
                     const cuda::Stream& stream) {
  Context ctx = context_for(placement, config.train.threads);
  ctx.stream = stream.get();
  ctx.random.seed = config.train.seed;
  // The CPU always is.
  ctx.deterministic = config.train.deterministic || placement.device.type == DeviceType::cpu;
  ctx.tf32 = config.train.tf32;
  return ctx;
}

/// Where loss scaling stood; it begins anew when the checkpoint is not of fp16.
StepValues step_values(const CheckpointReader& checkpoint, const LossScaling& scaling) {
  StepValues values;
  values.loss_scale = scaling.initial;
  if (!scaling.dynamic || !checkpoint.numbers().contains(kLossScale)) return values;
  values.loss_scale = checkpoint.number(kLossScale);
  values.good_steps = checkpoint.number(kGoodSteps);
  values.skipped = checkpoint.number(kSkippedSteps);
  return values;
}

std::unique_ptr<TokenSource> open(const RunConfig& config) {
  SourceRequest request;
  request.kind = source_kind(config.data.source);
  request.path = config.data.path;
  request.vocab = config.model.vocab;
  request.generated_bytes = split_total(config.data.split, config.model.context);
  const std::unique_ptr<const Tokenizer> tokenizer = config_tokenizer(config.data);
  choose_text(request, tokenizer.get());
  return open_source(request);
}

}  // namespace

Trainer::Trainer(const RunConfig& config, Recording recording)
    : config_(config),
      placement_(place(config.train.device, config.train.dtype)),
      stream_(make_stream(placement_.device)),
      ctx_(make_context(config, placement_, stream_)),
      source_(open(config)),
      masking_(masking_of(config)),
      split_(make_split(config.data.split, config.model.context, *source_)),
      parameters_(placement_.dtype, placement_.device),
      model_(make_model(config.model, config.attention, parameters_)),
      activations_("activations", placement_.device),
      feed_(activations_, {config.train.batch, config.model.context}, placement_.device,
            masking_ ? BatchFeed::Padding::possible : BatchFeed::Padding::none),
      recording_(recording),
      schedule_(config.optim, config.train.steps) {
  const BatchShape shape{config.train.batch, config.model.context};
  if (feed_.ahead()) loss_sum_ = activations_.declare("loss_sum", DType::f64, {1});
  model_->declare(ctx_, activations_, shape, Purpose::training);
  parameters_.commit();
  activations_.commit();
  parameters_.initialise(config.train.seed);
  optimizer_ = make_optimizer(config.optim, parameters_);
  if (feed_.ahead()) {
    state_ = std::make_unique<StepState>(placement_.device, placement_.dtype == DType::f16
                                                                ? LossScaling::fp16()
                                                                : LossScaling::fixed());
    cuda::workspace(placement_.device);  // what the first step would allocate
    if (config.model.dropout > 0 || config.attention.dropout > 0) {
      places_ = OwnedTensor(DType::u8, {cuda::place_bytes(config.model.layers)}, placement_.device);
      ctx_.random.places = static_cast<const StreamPlace*>(places_.view().data);
    }
  }
  clip_ = std::make_unique<GradientClip>(parameters_, config.optim.clip);
  sampler_ = std::make_unique<Sampler>(*source_, split_.train, config.model.context);
}

bool Trainer::byte_level() const {
  return config_.data.source == "bytes";
}

/// Samples are a function of the seed and their place, so a batch can be drawn before its time.
void Trainer::send(std::int64_t step, std::int64_t micro) {
  RandomState random = ctx_.random;
  random.step = static_cast<std::uint64_t>(step);
  random.first_sample = static_cast<std::uint32_t>(micro * config_.train.batch);
  const TokenBatch room = feed_.room();
  sampler_->fill(random, room.tokens, room.targets);
  if (masking_) masking_->training(random, room.tokens, room.targets);
  feed_.send();
}

/// The batch of a micro-step, which mostly is on its way already.
TokenBatch Trainer::next_batch(std::int64_t micro) {
  if (!feed_.waiting()) send(step_, micro);
  return feed_.take(ctx_);
}

double Trainer::micro_batch_on_cpu(const TokenBatch& batch) {
  const auto micro = double(config_.train.accumulate);
  model_->forward_loss(ctx_, batch);
  const double loss = model_->loss().as<double>()[0];
  model_->backward(ctx_, 1.0 / micro);
  return loss / micro;
}

void Trainer::micro_batch_on_gpu(const TokenBatch& batch, ActivationStatistics* statistics) {
  if (places_.view()) cuda::place_streams(ctx_, places_);
  const auto work = [this, &batch] {
    const double share = 1.0 / double(config_.train.accumulate);
    model_->forward_backward(ctx_, batch, {share, state_->loss_scale()});
    cuda::add_scaled(ctx_, loss_sum_, model_->loss().slice(0, 0, 1), share);
  };
  if (statistics == nullptr) {
    micro_batch_.run(ctx_, recording_, work);
    return;
  }
  if (observed_layout_ != statistics->recorded_layout()) observed_batch_ = RecordedWork();
  if (!observed_batch_.run(ctx_, recording_, work)) statistics->repeat_batch();
  observed_layout_ = statistics->recorded_layout();
}

/// Adds up gradients. The mean loss on the CPU; a GPU keeps it in loss_sum_.
double Trainer::run_micro_batches(ActivationStatistics* statistics) {
  const std::int64_t micro = config_.train.accumulate;
  double loss = 0;
  for (std::int64_t a = 0; a < micro; ++a) {
    ctx_.random.first_sample = static_cast<std::uint32_t>(a * config_.train.batch);
    const TokenBatch batch = next_batch(a);
    if (statistics != nullptr) statistics->begin_batch();
    if (state_)
      micro_batch_on_gpu(batch, statistics);
    else
      loss += micro_batch_on_cpu(batch);
    if (!feed_.ahead()) continue;
    const bool last = a + 1 == micro;
    if (!last || step_ + 1 < config_.train.steps) send(step_ + last, last ? 0 : a + 1);
  }
  if (statistics != nullptr) statistics->end_batches();
  return loss;
}

StepReport Trainer::step(ActivationStatistics* statistics, Report wanted) {
  ctx_.mode = Mode::train;
  ctx_.probes = statistics;
  ctx_.random.step = static_cast<std::uint64_t>(step_);
  model_->set_schedule_step(ctx_, step_);
  return state_ ? step_on_gpu(statistics, wanted) : step_on_cpu(statistics);
}

StepReport Trainer::step_on_cpu(ActivationStatistics* statistics) {
  parameters_.zero_grad(ctx_);
  StepReport report;
  report.loss = run_micro_batches(statistics);
  ctx_.probes = nullptr;
  const ClipResult clip = clip_->measure(ctx_);
  report.grad_norm = clip.norm;
  report.learning_rate = schedule_.lr(step_);
  if (!std::isfinite(clip.norm) || !std::isfinite(report.loss))
    throw diverged(step_ + 1, report.loss, clip.norm);
  optimizer_->step(ctx_, report.learning_rate, step_, clip.scale);
  report.step = ++step_;
  return report;
}

StepReport Trainer::step_on_gpu(ActivationStatistics* statistics, Report wanted) {
  StepReport report;
  report.learning_rate = schedule_.lr(step_);
  state_->begin(ctx_, report.learning_rate, step_);
  if (!state_->scaling().dynamic) cuda::hold_diverged(ctx_, state_->loss_scale(), state_->tensor());
  parameters_.zero_grad(ctx_);
  cuda::fill(ctx_, loss_sum_, 0);
  run_micro_batches(statistics);
  ctx_.probes = nullptr;
  update_.run(ctx_, recording_, [this] {
    clip_->measure(ctx_, *state_);
    optimizer_->step(ctx_, *state_);
  });
  report.step = ++step_;
  report.known = wanted == Report::yes;
  if (!report.known) return report;
  const StepValues values = state_->read(ctx_);
  cuda::copy(Tensor(&report.loss, DType::f64, {1}), loss_sum_);
  report.grad_norm = values.norm;
  report.loss_scale = values.loss_scale, report.skipped = values.skipped;
  expect_progress(values, report.loss);
  return report;
}

/// RunError if training on a GPU has diverged by the last step, whose loss this is.
void Trainer::expect_progress(const StepValues& values, double loss) const {
  if (state_->scaling().dynamic) {
    if (!std::isfinite(loss) || values.loss_scale < kLeastLossScale)
      throw diverged(step_, loss, values.norm);
  } else if (values.skipped > 0) {
    // All steps since the first bad one were left out.
    throw diverged(step_ + 1 - static_cast<std::int64_t>(values.skipped), loss, values.norm);
  } else if (!std::isfinite(loss)) {
    throw diverged(step_, loss, values.norm);
  }
}

Evaluation Trainer::evaluate(Span span, std::int64_t limit, ActivationStatistics* statistics) {
  feed_.discard();
  model_->set_schedule_step(ctx_,
                            step_);  // where the next step, or a model loaded from here, stands
  const Windows windows(*source_, span, config_.model.context, config_.train.batch, limit);
  return quietformer::evaluate(ctx_, *model_, windows, feed_, statistics,
                               masking_ ? &*masking_ : nullptr);
}

void Trainer::observe(Span span, std::int64_t sequences, ActivationSink& sink) {
  feed_.discard();
  model_->set_schedule_step(ctx_, step_);
  Arena arena("sequence", placement_.device);
  BatchFeed feed(arena, {1, config_.model.context}, placement_.device,
                 masking_ ? BatchFeed::Padding::possible : BatchFeed::Padding::none);
  arena.commit();
  const Windows windows(*source_, span, config_.model.context, 1, sequences);
  quietformer::observe(ctx_, *model_, windows, feed, sink, masking_ ? &*masking_ : nullptr);
}

Checkpoint Trainer::snapshot() const {
  Checkpoint checkpoint;
  RunConfig trained = config_;
  trained.train.dtype = dtype_name(placement_.dtype);  // what auto came to
  checkpoint.text["config"] = to_yaml(trained);
  checkpoint.integers["step"] = step_;
  if (state_) {
    const StepValues values = state_->read(ctx_);
    expect_progress(values, 0);
    if (state_->scaling().dynamic) {
      checkpoint.numbers[kLossScale] = values.loss_scale;
      checkpoint.numbers[kGoodSteps] = values.good_steps;
      checkpoint.numbers[kSkippedSteps] = values.skipped;
    }
  }
  for (const Parameter& p : parameters_.all())
    checkpoint.tensors.push_back({"parameters/" + p.name, p.master});
  for (const StateTensor& state : optimizer_->state())
    checkpoint.tensors.push_back({state.name, state.tensor});
  return checkpoint;
}

void Trainer::restore(const CheckpointReader& checkpoint) {
  for (const Parameter& p : parameters_.all()) checkpoint.read("parameters/" + p.name, p.master);
  parameters_.update_values(ctx_);
  feed_.discard();
  if (state_) state_->restore(step_values(checkpoint, state_->scaling()));
  for (const StateTensor& state : optimizer_->state()) checkpoint.read(state.name, state.tensor);
  step_ = checkpoint.integer("step");
}

std::vector<std::string> Trainer::start_from(const ModelSource& model) {
  QF_EXPECTS(step_ == 0);
  return fill_parameters(ctx_, model, parameters_);
}

std::string Trainer::memory_summary() const {
  const auto mib = [](std::int64_t bytes) { return double(bytes) / (1 << 20); };
  const Arena &values_arena = parameters_.values(), &masters_arena = parameters_.masters();
  const std::int64_t values = values_arena.bytes();
  const std::int64_t masters = &masters_arena == &values_arena ? 0 : masters_arena.bytes();
  return fmt::format(
      "{} parameters; memory: parameters {:.1f}, gradients {:.1f}, optimizer {:.1f}, "
      "activations {:.1f} MiB",
      parameters_.count(), mib(values + masters), mib(parameters_.grads().bytes()),
      mib(optimizer_->state_bytes()), mib(activations_.bytes()));
}

std::string Trainer::memory_report() const {
  return activations_.report();
}

}  // namespace quietformer
