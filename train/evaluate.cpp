#include "train/evaluate.h"

#include <numbers>

namespace quietformer {
namespace {

// Windows beyond the end of a span are padded; their positions count in no statistic.
void mark_valid(const Tensor& validity, const Tensor& targets) {
  const std::int32_t* target = targets.as<std::int32_t>();
  std::uint8_t* valid = validity.as<std::uint8_t>();
  for (std::int64_t i = 0; i < targets.count(); ++i) valid[i] = target[i] != kIgnoredTarget;
}

}  // namespace

Evaluation evaluate(const Context& ctx, Gpt& model, const Windows& windows, const Tensor& inputs,
                    const Tensor& targets, ActivationStatistics* statistics) {
  Context evaluation = ctx;
  evaluation.mode = Mode::evaluate;
  evaluation.probes = statistics;
  OwnedTensor validity;
  if (statistics != nullptr) validity = OwnedTensor(DType::u8, targets.shape);
  Evaluation result;
  for (std::int64_t batch = 0; batch < windows.batches(); ++batch) {
    const std::int64_t count = windows.fill(batch, inputs, targets);
    if (statistics != nullptr) {
      mark_valid(validity, targets);
      statistics->begin_batch(validity);
    }
    model.forward_loss(evaluation, inputs, targets);
    result.loss += model.loss().as<double>()[0] * double(count);
    result.targets += count;
  }
  result.loss /= double(result.targets);
  return result;
}

double bits_per_byte(double loss) {
  return loss / std::numbers::ln2;
}

}  // namespace quietformer
