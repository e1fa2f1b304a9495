// The loss of a model over a span of text.
#pragma once

#include <cstdint>

#include "analysis/activation_sink.h"
#include "core/context.h"
#include "data/masking.h"
#include "data/windows.h"
#include "layers/language_model.h"
#include "train/batch_feed.h"

namespace quietformer {

struct Evaluation {
  double loss = 0;           // nats per predicted token: the next one, or one that was masked
  std::int64_t targets = 0;  // tokens predicted
};

/// Mean loss over all batches of `windows`, which come through `feed` (nothing waits in it). An
/// encoder's tokens are masked by `masking`, and its feed has room for padding. With `statistics`
/// the activations of real positions are recorded; the caller opens and closes the step. A GPU adds
/// the losses up itself and is waited for once, at the end. InputError when nothing is masked.
Evaluation evaluate(const Context& ctx, LanguageModel& model, const Windows& windows,
                    BatchFeed& feed, ActivationSink* statistics, const Masking* masking = nullptr);

/// The forward passes of evaluate() alone, for what `sink` makes of them.
void observe(const Context& ctx, LanguageModel& model, const Windows& windows, BatchFeed& feed,
             ActivationSink& sink, const Masking* masking = nullptr);

/// Bits per byte of a loss in nats per byte; of an encoder, per masked byte.
double bits_per_byte(double loss);

}  // namespace quietformer
