// Context: the first argument of every operation. There are no globals.
#pragma once

#include <cstdint>

#include "core/device.h"
#include "core/probe.h"
#include "core/random.h"

struct CUstream_st;  // CUDA's name for what a cudaStream_t points to

namespace quietformer {

enum class Mode : std::uint8_t { evaluate, train };

/// Where the random streams stand. The trainer sets it before each micro-batch.
struct RandomState {
  std::uint64_t seed = 1;
  std::uint64_t step = 0;          // optimizer step
  std::uint32_t first_sample = 0;  // index within the step of this micro-batch's first sequence
  /// On a GPU, where dropout's streams stand: two for each layer, of its weights and of its
  /// activations. Kernels then read them there. Null: the numbers above hold.
  const StreamPlace* places = nullptr;

  RandomKey key(RandomPurpose purpose, std::uint32_t layer) const {
    return stream_key(seed, purpose, layer, step);
  }
  /// In `places`; null without.
  const StreamPlace* place(RandomPurpose purpose, std::uint32_t layer) const {
    if (places == nullptr) return nullptr;
    return places + 2 * layer + (purpose == RandomPurpose::dropout ? 1 : 0);
  }
};

/// Where and how an operation runs. Plain data; cheap to copy.
struct Context {
  Device device;
  /// On a GPU: the queue that kernels, products, copies and fills join (cuda::Stream). Null is
  /// CUDA's default stream.
  CUstream_st* stream = nullptr;
  int threads = 1;             // at most this many; changes no result
  Mode mode = Mode::evaluate;  // dropout acts in train mode only
  bool deterministic = true;   // the CPU always is; CUDA reads this
  bool tf32 = false;           // on a GPU: f32 products may round their operands to TF32 (10 bits)
  RandomState random;
  ProbeSink* probes = nullptr;  // null: nobody watches, layers skip the call
};

}  // namespace quietformer
