// Random training windows.
#pragma once

#include <cstdint>

#include "core/context.h"
#include "core/tensor.h"
#include "data/source.h"
#include "data/split.h"

namespace quietformer {

/// Draws windows of context + 1 tokens uniformly from a span. There is no state: sample k of step s
/// starts at a position that depends on (seed, s, k) alone (Philox keyed by stream_key(seed,
/// sample_position, 0, s) at counter k), so a resumed run, several micro-batches or several ranks
/// see the same sequences. The source must outlive the sampler.
class Sampler {
 public:
  /// The span must hold at least context + 1 tokens.
  Sampler(const TokenSource& source, Span span, std::int64_t context);

  /// First token, counted from the source's start, of sample `sample` of step random.step;
  /// random.first_sample is not added.
  std::int64_t position(const RandomState& random, std::uint32_t sample) const;

  /// Fills inputs and targets, both i32 (B, context), with samples [random.first_sample,
  /// random.first_sample + B) of step random.step. Targets are the inputs one token later.
  /// Allocates nothing. Throws InputError when the source does (an id out of range).
  void fill(const RandomState& random, const Tensor& inputs, const Tensor& targets) const;

 private:
  const TokenSource& source_;
  Span span_;
  std::int64_t context_;
};

}  // namespace quietformer
