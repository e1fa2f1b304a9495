// Dropout decisions inside kernels.
#pragma once

#include "core/cuda/storage.cuh"
#include "core/random.h"
#include "layers/dropout.h"

namespace quietformer::cuda {

/// Where elements stand in the random stream.
struct DropoutStream {
  StreamSource source;
  std::uint32_t threshold, site;
  std::int64_t length;  // tokens of a sequence

  DropoutStream() = default;
  DropoutStream(const Context& ctx, const Dropout& dropout, std::int64_t tokens)
      : source{{ctx.random.key(RandomPurpose::dropout, dropout.layer), ctx.random.first_sample},
               ctx.random.place(RandomPurpose::dropout, dropout.layer)},
        threshold(dropout_threshold(dropout.probability)),
        site(static_cast<std::uint32_t>(dropout.site)),
        length(tokens) {}

  /// For columns c .. c + 3 of a row, c a multiple of 4.
  __device__ Philox4 bits(std::int64_t row, std::int64_t c) const {
    const StreamPlace place = source.now();
    return dropout_bits(place.key, static_cast<std::uint32_t>(place.first_sample + row / length),
                        site, static_cast<std::uint32_t>(row % length),
                        static_cast<std::uint32_t>(c));
  }
};

}  // namespace quietformer::cuda
