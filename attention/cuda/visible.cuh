// Which keys a query sees through causality, window and the pairs of its score: an interval for
// each pair, whose ends grow with the query. What masks hide comes on top (options.cuh).
#pragma once

#include "attention/cuda/flash_call.h"
#include "attention/cuda/options.cuh"

namespace quietformer::cuda {

template <class S>
class VisibleKeys {
 public:
  /// The keys that some of a range of queries take, and those that all of them take.
  struct Reach {
    int begin, end, all_begin, all_end;
  };

  /// Kernels that know no packed sequences read band and lengths where the call has them.
  template <bool packable>
  static __device__ __forceinline__ KeyRange of(const FlashForwardCall& call,
                                                const FlashSequence& sequence, int pair, int i) {
    const int keys = packable ? sequence.keys : call.keys;
    const Band band = packable ? call.band.with_lengths(sequence.queries, keys) : call.band;
    KeyRange range = band.keys(i);
    if constexpr (S::pairs == 2) {
      const std::int64_t far = S::far_end(band.position(i), call.threshold, keys);
      if (pair == 0) range.begin = far > range.begin ? far : range.begin;
      if (pair == 1) range.end = far < range.end ? far : range.end;
      if (range.end < range.begin) range.end = range.begin;
    }
    return range;
  }

  /// Of queries [first, first + rows), as far as they exist.
  template <bool packable>
  static __device__ __forceinline__ Reach reach(const FlashForwardCall& call,
                                                const FlashSequence& sequence, int pair, int first,
                                                int rows) {
    const int last = min(first + rows, packable ? sequence.queries : call.queries) - 1;
    if (last < first) return {0, 0, 0, 0};
    const KeyRange low = of<packable>(call, sequence, pair, first),
                   high = of<packable>(call, sequence, pair, last);
    return {static_cast<int>(low.begin), static_cast<int>(high.end), static_cast<int>(high.begin),
            static_cast<int>(low.end)};
  }
};

}  // namespace quietformer::cuda
