// Counter-based randomness: Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as
// easy as 1, 2, 3", SC 2011).
//
// Nothing here has state. Every random number is a function of (seed, purpose, layer, step) and of
// where it is used, so results do not depend on tiling, threads or ranks, and the position in the
// random stream that a checkpoint must hold is the step alone.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace quietformer {

struct Philox4 {
  std::uint32_t word[4];
};

/// 64-bit Philox key.
struct RandomKey {
  std::uint32_t word[2] = {0, 0};
};

/// Ten rounds on a counter of four words.
QF_HOST_DEVICE Philox4 philox(RandomKey key, std::uint32_t c0, std::uint32_t c1, std::uint32_t c2,
                              std::uint32_t c3) {
  std::uint32_t k0 = key.word[0], k1 = key.word[1];
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c0;
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * c2;
    const std::uint32_t n0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
    const std::uint32_t n2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<std::uint32_t>(p1);
    c3 = static_cast<std::uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return Philox4{{c0, c1, c2, c3}};
}

/// What a random stream is for. Values are part of the checkpoint contract: never renumber.
enum class RandomPurpose : std::uint32_t {
  initialisation = 1,
  sample_position = 2,
  attention_dropout = 3,
  dropout = 4,
  mlm_mask = 5,
  generation = 6,
};

/// The key of one stream: hashes (seed, purpose, layer, step) through Philox itself.
QF_HOST_DEVICE RandomKey stream_key(std::uint64_t seed, RandomPurpose purpose, std::uint32_t layer,
                                    std::uint64_t step) {
  const RandomKey root{{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)}};
  const Philox4 hash =
      philox(root, static_cast<std::uint32_t>(step), static_cast<std::uint32_t>(step >> 32), layer,
             static_cast<std::uint32_t>(purpose));
  return RandomKey{{hash.word[0], hash.word[1]}};
}

/// Where a stream stands in one micro-batch.
struct StreamPlace {
  RandomKey key;
  std::uint32_t first_sample = 0;  // RandomState::first_sample
};

/// A StreamPlace for a kernel: given at the launch, or in GPU memory, where it is read when the
/// kernel runs. So work recorded once (cuda::Graph) draws other numbers every time.
struct StreamSource {
  StreamPlace given;
  const StreamPlace* there = nullptr;
  QF_HOST_DEVICE StreamPlace now() const { return there != nullptr ? *there : given; }
};

/// Uniform in [0, 1) with 24 bits.
QF_HOST_DEVICE float uniform24(std::uint32_t word) {
  return static_cast<float>(word >> 8) * (1.0f / 16777216.0f);
}

/// Dropout decision shared by every implementation and device: element (sample, head, i, j) of a
/// (.., H, L, S) weight matrix, or (sample, site, t, c) of an activation. One Philox call serves
/// four neighbouring j, so kernels that hold four columns share it: dropout_bits gives all four
/// words. `sample` is the index within the global step (micro-batch included), the same for any
/// rank count.
QF_HOST_DEVICE Philox4 dropout_bits(RandomKey key, std::uint32_t sample, std::uint32_t head,
                                    std::uint32_t i, std::uint32_t j) {
  return philox(key, j >> 2, i, head, sample);
}

/// keep iff word >= threshold; P(drop) = threshold / 2^32.
QF_HOST_DEVICE std::uint32_t dropout_threshold(double probability) {
  const double scaled = probability * 4294967296.0;
  return scaled >= 4294967295.0 ? 4294967295u : static_cast<std::uint32_t>(scaled);
}

QF_HOST_DEVICE bool dropout_keep(RandomKey key, std::uint32_t threshold, std::uint32_t sample,
                                 std::uint32_t head, std::uint32_t i, std::uint32_t j) {
  return dropout_bits(key, sample, head, i, j).word[j & 3] >= threshold;
}

}  // namespace quietformer
