// The options of attention that the fast kernels of `flash` know nothing of: masks, bias, ALiBi,
// dropout, packed sequences. Plain data, passed by value inside the call structs of forward and
// backward; options.cuh has what device code does with it. Kernels have one template flag,
// `general`, for all of them.
#pragma once

#include <cstdint>

#include "attention/attention.h"
#include "attention/cuda/packed.h"

namespace quietformer::cuda {

/// A (B|1, H|1, L|1, S|1) tensor: strides in elements, 0 along what is broadcast.
template <class T>
struct Broadcast {
  const T* data = nullptr;  // null: absent
  std::int64_t batch = 0, head = 0, query = 0, key = 0;
};

struct FlashOptions {
  Broadcast<std::uint8_t> mask, key_padding;  // 0 hides; key_padding is a (B, 1, 1, S)
  Broadcast<float> bias;
  Broadcast<float> slopes;  // of ALiBi, a (B|1, H, 1, 1)

  bool dropout = false;
  StreamSource stream;
  std::uint32_t threshold = 0;  // core/random.h
  float kept = 1;               // 1 / (1 - p)

  const std::int32_t *cu_queries = nullptr,
                     *cu_keys = nullptr;  // (sequences + 1), null: not packed
  int sequences = 0;                      // B, or how many packed sequences there are

  FlashOptions() = default;
  /// Dropout acts in ctx.mode train only.
  FlashOptions(const Context& ctx, const AttentionProblem& problem);

  /// Some option needs a kernel with `general`.
  bool general() const {
    return mask.data != nullptr || key_padding.data != nullptr || bias.data != nullptr ||
           slopes.data != nullptr || dropout || cu_queries != nullptr;
  }
  /// Slots for tiles of `rows` of `length` queries or keys in all, for the grid.
  std::int64_t tiles(std::int64_t length, int rows) const {
    return tile_slots(length, rows, cu_queries != nullptr, sequences);
  }
};

}  // namespace quietformer::cuda
