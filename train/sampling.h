// Choosing the next token from logits.
#pragma once

#include <cstdint>
#include <vector>

#include "core/random.h"

namespace quietformer {

struct SamplingConfig {
  double temperature = 1.0;  // 0: the most likely token
  std::int64_t top_k = 0;    // keep the k most likely; 0: all
  double top_p = 1.0;        // then keep the fewest whose probabilities reach p
};

/// InputError for negative or non-finite values and top_p outside (0, 1].
void validate(const SamplingConfig& config);

/// Draws from softmax(logits / temperature) restricted by top_k, then top_p (nucleus sampling,
/// Holtzman et al. 2020; the token that crosses p is kept). Ties go to the smaller id. The draw is
/// a function of (key, position) alone.
class TokenSampler {
 public:
  /// Throws as validate() does.
  TokenSampler(const SamplingConfig& config, std::uint64_t seed);
  /// `logits` (vocab), finite or -inf; they stay as they are.
  std::int32_t draw(const float* logits, std::int64_t vocab, std::uint64_t position);

 private:
  SamplingConfig config_;
  RandomKey key_;
  std::vector<std::int32_t> order_;
  std::vector<double> weight_;
};

}  // namespace quietformer
