#include "train/trainer.h"

#include <fmt/format.h>

#include <cmath>

#include "core/check.h"
#include "core/parallel.h"
#include "data/windows.h"

namespace quietformer {

int thread_count(std::int64_t configured) {
  return configured > 0 ? static_cast<int>(configured) : available_threads();
}

DType compute_dtype(const std::string& name) {
  return name == "fp64" ? DType::f64 : DType::f32;
}

namespace {

Context make_context(const RunConfig& config) {
  Context ctx;
  ctx.threads = thread_count(config.train.threads);
  ctx.random.seed = config.train.seed;
  return ctx;
}

std::unique_ptr<TokenSource> open(const RunConfig& config) {
  SourceRequest request;
  request.kind = source_kind(config.data.source);
  request.path = config.data.path;
  request.vocab = config.model.vocab;
  request.generated_bytes = split_total(config.data.split, config.model.context);
  return open_source(request);
}

}  // namespace

Trainer::Trainer(const RunConfig& config)
    : config_(config),
      ctx_(make_context(config)),
      source_(open(config)),
      split_(make_split(config.data.split, config.model.context, *source_)),
      parameters_(compute_dtype(config.train.dtype)),
      model_(config.model, config.attention, parameters_),
      schedule_(config.optim, config.train.steps) {
  const BatchShape shape{config.train.batch, config.model.context};
  inputs_ = activations_.declare("inputs", DType::i32, {shape.batch, shape.tokens});
  targets_ = activations_.declare("targets", DType::i32, {shape.batch, shape.tokens});
  model_.declare(ctx_, activations_, shape, Purpose::training);
  parameters_.commit();
  activations_.commit();
  parameters_.initialise(config.train.seed);
  optimizer_ = make_optimizer(config.optim, parameters_);
  clip_ = std::make_unique<GradientClip>(parameters_, config.optim.clip);
  sampler_ = std::make_unique<Sampler>(*source_, split_.train, config.model.context);
}

bool Trainer::byte_level() const {
  return config_.data.source == "bytes";
}

StepReport Trainer::step(ActivationStatistics* statistics) {
  ctx_.mode = Mode::train;
  ctx_.probes = statistics;
  ctx_.random.step = static_cast<std::uint64_t>(step_);
  model_.set_schedule_step(step_);
  parameters_.zero_grad();
  const std::int64_t micro = config_.train.accumulate;
  StepReport report;
  for (std::int64_t a = 0; a < micro; ++a) {
    ctx_.random.first_sample = static_cast<std::uint32_t>(a * config_.train.batch);
    sampler_->fill(ctx_.random, inputs_, targets_);
    if (statistics != nullptr) statistics->begin_batch();
    model_.forward_loss(ctx_, inputs_, targets_);
    report.loss += model_.loss().as<double>()[0] / double(micro);
    model_.backward(ctx_, 1.0 / double(micro));
  }
  ctx_.probes = nullptr;
  const ClipResult clip = clip_->measure(ctx_);
  report.grad_norm = clip.norm;
  report.learning_rate = schedule_.lr(step_);
  if (!std::isfinite(clip.norm) || !std::isfinite(report.loss))
    throw RunError(
        fmt::format("step {}: diverged: loss {}, gradient norm {}; expected finite numbers",
                    step_ + 1, report.loss, clip.norm));
  optimizer_->step(ctx_, report.learning_rate, step_, clip.scale);
  report.step = ++step_;
  return report;
}

Evaluation Trainer::evaluate(Span span, std::int64_t limit, ActivationStatistics* statistics) {
  model_.set_schedule_step(step_);  // where the next step, or a model loaded from here, stands
  const Windows windows(*source_, span, config_.model.context, config_.train.batch, limit);
  return quietformer::evaluate(ctx_, model_, windows, inputs_, targets_, statistics);
}

Checkpoint Trainer::snapshot() const {
  Checkpoint checkpoint;
  checkpoint.text["config"] = to_yaml(config_);
  checkpoint.integers["step"] = step_;
  for (const Parameter& p : parameters_.all())
    checkpoint.tensors.push_back({"parameters/" + p.name, p.value});
  for (const StateTensor& state : optimizer_->state())
    checkpoint.tensors.push_back({state.name, state.tensor});
  return checkpoint;
}

void Trainer::restore(const CheckpointReader& checkpoint) {
  for (const Parameter& p : parameters_.all()) checkpoint.read("parameters/" + p.name, p.value);
  for (const StateTensor& state : optimizer_->state()) checkpoint.read(state.name, state.tensor);
  step_ = checkpoint.integer("step");
}

std::string Trainer::memory_summary() const {
  const auto mib = [](std::int64_t bytes) { return double(bytes) / (1 << 20); };
  return fmt::format(
      "{} parameters; memory: parameters {:.1f}, gradients {:.1f}, optimizer {:.1f}, "
      "activations {:.1f} MiB",
      parameters_.count(), mib(parameters_.values().bytes()), mib(parameters_.grads().bytes()),
      mib(optimizer_->state_bytes()), mib(activations_.bytes()));
}

std::string Trainer::memory_report() const {
  return activations_.report();
}

}  // namespace quietformer
