#include "train/evaluate.h"

#include <array>
#include <numbers>

#include "core/check.h"
#include "train/cuda/operations.h"

namespace quietformer {
namespace {

// Windows beyond the end of a span are padded; their positions count in no statistic.
void mark_valid(const Context& ctx, const Tensor& validity, const Tensor& targets) {
  if (ctx.device.type == DeviceType::cuda) return cuda::mark_valid(ctx, validity, targets);
  const std::int32_t* target = targets.as<std::int32_t>();
  std::uint8_t* valid = validity.as<std::uint8_t>();
  for (std::int64_t i = 0; i < targets.count(); ++i) valid[i] = target[i] != kIgnoredTarget;
}

/// Losses times their numbers of targets, added in order where they are computed.
class LossSum {
 public:
  explicit LossSum(const Context& ctx) : ctx_(ctx) {
    if (ctx.device.type == DeviceType::cuda) there_ = OwnedTensor(DType::f64, {1}, ctx.device);
  }
  void add(const Tensor& loss, std::int64_t targets) {
    if (there_.view())
      cuda::add_scaled(ctx_, there_, loss.slice(0, 0, 1), double(targets));
    else
      sum_ += loss.as<double>()[0] * double(targets);
  }
  double read() {
    if (there_.view()) cuda::copy(Tensor(&sum_, DType::f64, {1}), there_);
    return sum_;
  }

 private:
  Context ctx_;
  double sum_ = 0;
  OwnedTensor there_;
};

/// forward(batch, its number of targets) for every batch of `windows`, announced to `sink` if there
/// is one. `ctx` is that of forward().
template <class Forward>
void for_each_batch(const Context& ctx, const LanguageModel& model, const Windows& windows,
                    BatchFeed& feed, ActivationSink* sink, const Masking* masking,
                    Forward&& forward) {
  using Padding = BatchFeed::Padding;
  QF_EXPECTS(!feed.waiting());
  OwnedTensor validity;
  std::array<std::int64_t, 2> counts{};  // of even and odd batches: one is ahead at most
  const auto send = [&](std::int64_t batch) {
    const TokenBatch room = feed.room();
    std::int64_t& count = counts[std::size_t(batch % 2)];
    if (masking == nullptr) {
      count = windows.fill(batch, room.tokens, room.targets);
      return feed.send();
    }
    const auto padding_token = static_cast<std::int32_t>(model.config().padding_token);
    count =
        windows.fill_masked(batch, *masking, padding_token, room.tokens, room.targets, room.valid);
    feed.send(windows.padded(batch) ? Padding::possible : Padding::none);
  };
  for (std::int64_t number = 0; number < windows.batches(); ++number) {
    if (!feed.waiting()) send(number);
    const TokenBatch batch = feed.take(ctx);
    if (sink != nullptr && masking != nullptr) {
      sink->begin_batch(batch.valid);
    } else if (sink != nullptr) {
      if (!validity.view()) validity = OwnedTensor(DType::u8, batch.targets.shape, ctx.device);
      mark_valid(ctx, validity, batch.targets);
      sink->begin_batch(validity);
    }
    forward(batch, counts[std::size_t(number % 2)]);
    if (feed.ahead() && number + 1 < windows.batches()) send(number + 1);
  }
}

Context for_evaluation(const Context& ctx, ActivationSink* sink) {
  Context evaluation = ctx;
  evaluation.mode = Mode::evaluate;
  evaluation.probes = sink;
  return evaluation;
}

}  // namespace

Evaluation evaluate(const Context& ctx, LanguageModel& model, const Windows& windows,
                    BatchFeed& feed, ActivationSink* statistics, const Masking* masking) {
  const Context evaluation = for_evaluation(ctx, statistics);
  LossSum sum(evaluation);
  Evaluation result;
  for_each_batch(evaluation, model, windows, feed, statistics, masking,
                 [&](const TokenBatch& batch, std::int64_t count) {
                   model.forward_loss(evaluation, batch);
                   sum.add(model.loss(), count);
                   result.targets += count;
                 });
  if (result.targets == 0)
    throw InputError(
        "data.mlm.probability: no token of the text was masked, expected a longer text or a larger "
        "probability");
  result.loss = sum.read() / double(result.targets);
  return result;
}

void observe(const Context& ctx, LanguageModel& model, const Windows& windows, BatchFeed& feed,
             ActivationSink& sink, const Masking* masking) {
  const Context evaluation = for_evaluation(ctx, &sink);
  for_each_batch(evaluation, model, windows, feed, &sink, masking,
                 [&](const TokenBatch& batch, std::int64_t) {
                   model.forward(evaluation, batch, LogitRows::last);
                 });
}

double bits_per_byte(double loss) {
  return loss / std::numbers::ln2;
}

}  // namespace quietformer
