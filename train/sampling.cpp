#include "train/sampling.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/check.h"

namespace quietformer {

void validate(const SamplingConfig& config) {
  if (!(config.temperature >= 0) || !std::isfinite(config.temperature))
    throw InputError(
        fmt::format("--temperature: found {}, expected 0 or more", config.temperature));
  if (config.top_k < 0)
    throw InputError(fmt::format("--top-k: found {}, expected 0 (all) or more", config.top_k));
  if (!(config.top_p > 0 && config.top_p <= 1))
    throw InputError(fmt::format("--top-p: found {}, expected above 0, at most 1", config.top_p));
}

TokenSampler::TokenSampler(const SamplingConfig& config, std::uint64_t seed)
    : config_(config), key_(stream_key(seed, RandomPurpose::generation, 0, 0)) {
  validate(config);
}

std::int32_t TokenSampler::draw(const float* logits, std::int64_t vocab, std::uint64_t position) {
  order_.resize(static_cast<std::size_t>(vocab));
  std::iota(order_.begin(), order_.end(), 0);
  const auto more_likely = [logits](std::int32_t a, std::int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  };
  if (config_.temperature == 0) return *std::min_element(order_.begin(), order_.end(), more_likely);
  std::sort(order_.begin(), order_.end(), more_likely);
  if (config_.top_k > 0 && config_.top_k < vocab)
    order_.resize(static_cast<std::size_t>(config_.top_k));

  weight_.resize(order_.size());
  double total = 0;
  for (std::size_t r = 0; r < order_.size(); ++r) {
    weight_[r] = std::exp((double(logits[order_[r]]) - logits[order_[0]]) / config_.temperature);
    total += weight_[r];
  }
  std::size_t kept = order_.size();
  double sum = 0;
  for (std::size_t r = 0; r < order_.size() && config_.top_p < 1; ++r) {
    sum += weight_[r];
    if (sum >= config_.top_p * total) {
      kept = r + 1;
      total = sum;
      break;
    }
  }
  const Philox4 bits = philox(key_, static_cast<std::uint32_t>(position),
                              static_cast<std::uint32_t>(position >> 32), 0, 0);
  const double uniform =
      (double(bits.word[0]) * 4294967296.0 + bits.word[1]) / 18446744073709551616.0;
  double left = uniform * total;
  for (std::size_t r = 0; r + 1 < kept; ++r) {
    left -= weight_[r];
    if (left < 0) return order_[r];
  }
  return order_[kept - 1];
}

}  // namespace quietformer
