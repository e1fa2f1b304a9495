// Who looks at the activations of a model's batches.
#pragma once

#include "core/probe.h"

namespace quietformer {

class ActivationSink : public ProbeSink {
 public:
  /// Announces a micro-batch, before its forward pass. `validity` u8 (B,T), where the model
  /// computes: nonzero = a real position; absent: all are. It must live until the next call.
  virtual void begin_batch(const Tensor& validity) = 0;
};

}  // namespace quietformer
