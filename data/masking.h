// Masked language modelling (Devlin et al., arXiv 1810.04805, 3.1): which tokens a model has to
// guess, and what it reads in their places.
#pragma once

#include <cstdint>

#include "core/context.h"
#include "core/tensor.h"

namespace quietformer {

/// Every token is chosen with `probability`, independently. What is read in the place of a chosen
/// one is mask_token (8 times in 10), a random id below random_ids (1 in 10) or the token itself
/// (1 in 10). There is no state: what happens to a token is a function of its place alone, so
/// resumed runs, micro-batches and ranks agree.
///   training    Philox keyed by stream_key(seed, mlm_mask, 0, step) at (t, sample) for token t of
///               a sample, counted as the Sampler counts
///   evaluation  keyed by stream_key(0, mlm_mask, 1, 0) at the token's place in its source: the
///               same tokens are chosen in every evaluation, on every machine and for every seed
class Masking {
 public:
  struct Rule {
    double probability = 0.15;  // above 0, at most 1
    std::int32_t mask_token = 0;
    std::int32_t random_ids = 0;  // above 0
  };
  explicit Masking(const Rule& rule);

  /// tokens i32 (B, context), samples [random.first_sample, random.first_sample + B): chosen ones
  /// become what is read. targets of the same shape: the token where it was chosen, elsewhere
  /// kIgnoredTarget. Returns how many were chosen. Allocates nothing.
  std::int64_t training(const RandomState& random, const Tensor& tokens,
                        const Tensor& targets) const;

  /// The same for `count` tokens that begin at token `place` of a source.
  std::int64_t evaluation(std::int64_t place, std::int64_t count, std::int32_t* tokens,
                          std::int32_t* targets) const;

 private:
  struct Place {
    std::uint32_t low, high;  // of Philox' counter
  };
  bool mask(RandomKey key, Place place, std::int32_t& token, std::int32_t& target) const;

  Rule rule_;
};

}  // namespace quietformer
