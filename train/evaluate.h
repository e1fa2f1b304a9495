// The loss of a model over a span of text.
#pragma once

#include <cstdint>

#include "analysis/activation_statistics.h"
#include "core/context.h"
#include "data/windows.h"
#include "layers/gpt.h"
#include "train/batch_feed.h"

namespace quietformer {

struct Evaluation {
  double loss = 0;           // nats per predicted token
  std::int64_t targets = 0;  // tokens predicted
};

/// Mean loss over all batches of `windows`, which come through `feed` (nothing waits in it). With
/// `statistics` the activations of real positions are recorded; the caller opens and closes the
/// step. A GPU adds the losses up itself and is waited for once, at the end.
Evaluation evaluate(const Context& ctx, Gpt& model, const Windows& windows, BatchFeed& feed,
                    ActivationStatistics* statistics);

/// Bits per byte of a loss in nats per byte.
double bits_per_byte(double loss);

}  // namespace quietformer
