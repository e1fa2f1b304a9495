#include "data/masking.h"

#include "core/random.h"
#include "data/windows.h"

namespace quietformer {
namespace {

constexpr double kMask = 0.8, kRandom = 0.1;  // the rest stays

/// `word` is uniform in [0, 2^32).
bool below(std::uint32_t word, double probability) {
  return word < probability * 4294967296.0;
}

}  // namespace

Masking::Masking(const Rule& rule) : rule_(rule) {
  QF_EXPECTS(rule.probability > 0 && rule.probability <= 1 && rule.mask_token >= 0);
  QF_EXPECTS(rule.random_ids > 0);
}

bool Masking::mask(RandomKey key, Place place, std::int32_t& token, std::int32_t& target) const {
  const Philox4 bits = philox(key, place.low, place.high, 0, 0);
  const bool chosen = below(bits.word[0], rule_.probability);
  target = chosen ? token : kIgnoredTarget;
  if (!chosen) return false;
  if (below(bits.word[1], kMask))
    token = rule_.mask_token;
  else if (below(bits.word[1], kMask + kRandom))
    token = static_cast<std::int32_t>(
        std::uint64_t{bits.word[2]} * static_cast<std::uint32_t>(rule_.random_ids) >> 32);
  return true;
}

std::int64_t Masking::training(const RandomState& random, const Tensor& tokens,
                               const Tensor& targets) const {
  QF_EXPECTS(tokens.shape.rank == 2 && tokens.contiguous());
  QF_EXPECTS(targets.shape == tokens.shape && targets.contiguous());
  const RandomKey key = random.key(RandomPurpose::mlm_mask, 0);
  std::int32_t* token = tokens.as<std::int32_t>();
  std::int32_t* target = targets.as<std::int32_t>();
  std::int64_t chosen = 0;
  for (std::uint32_t row = 0; row < tokens.shape[0]; ++row)
    for (std::uint32_t t = 0; t < tokens.shape[1]; ++t)
      chosen += mask(key, {t, random.first_sample + row}, *token++, *target++);
  return chosen;
}

std::int64_t Masking::evaluation(std::int64_t place, std::int64_t count, std::int32_t* tokens,
                                 std::int32_t* targets) const {
  const RandomKey key = stream_key(0, RandomPurpose::mlm_mask, 1, 0);
  std::int64_t chosen = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto at = static_cast<std::uint64_t>(place + i);
    chosen += mask(key, {static_cast<std::uint32_t>(at), static_cast<std::uint32_t>(at >> 32)},
                   tokens[i], targets[i]);
  }
  return chosen;
}

}  // namespace quietformer
