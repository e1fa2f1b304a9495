// Which tiles of queries and keys a block of the forward for compute capability 9.0 works on.
#pragma once

#include "attention/cuda/hopper/forward.h"

namespace quietformer::cuda {

/// The tiles of queries that a block computes, the same for all its warps. Tiles that see more keys
/// come with tiles that see fewer when `paired`, so that all blocks have the same to do; and from
/// round to round blocks move on by one, or some would always have the last tile of a head, which
/// may be short.
class Tiles {
 public:
  __device__ __forceinline__ explicit Tiles(const HopperForwardCall& call)
      : per_head_(call.paired ? (call.tiles + 1) / 2 : call.tiles),
        count_(per_head_ * call.call.heads * call.call.batch),
        at_(static_cast<int>(blockIdx.x)) {}

  int tile = 0, head = 0, batch = 0;

  __device__ __forceinline__ bool next(const HopperForwardCall& call) {
    if (second_) {
      tile = call.tiles - 1 - tile;
      second_ = false;
      return true;
    }
    const int item = round_ + at_;
    if (item >= count_) return false;
    const int at = item % per_head_, of = item / per_head_;
    head = of % call.call.heads, batch = of / call.call.heads;
    tile = call.tiles - 1 - at;
    second_ = call.paired && tile != at;
    round_ += static_cast<int>(gridDim.x);
    if (++at_ == static_cast<int>(gridDim.x)) at_ = 0;
    return true;
  }

 private:
  int per_head_, count_, at_, round_ = 0;
  bool second_ = false;
};

/// A tile of queries, as the copying warp tells the others.
struct TilePlan {
  int tile, head, batch;  // tile -1: there is no other
  int unused;
  int begin[2], end[2];  // keys that its rows see in each pair; begin: of a tile
};

/// The keys of a pair that some of a range of queries take, and those that all of them take.
struct Reach {
  int begin, end, all_begin, all_end;

  /// Of queries [first, first + rows), as far as they exist.
  static __device__ __forceinline__ Reach of(const FlashForwardCall& call, int pair, int first,
                                             int rows) {
    const int last = min(first + rows, call.queries) - 1, offset = call.keys - call.queries;
    const int low = call.distances.low[pair], high = call.distances.high[pair];
    if (last < first || low > high) return {0, 0, 0, 0};
    const auto key = [&](int position) { return min(max(position, 0), call.keys); };
    return {key(first + offset - high), key(last + offset - low + 1), key(last + offset - high),
            key(first + offset - low + 1)};
  }
};

/// The tiles of keys that a tile of queries looks at, pair by pair.
template <class S, int kKeys>
class KeyTiles {
 public:
  __device__ __forceinline__ explicit KeyTiles(const TilePlan& plan)
      : first(plan.begin[0] - kKeys),
        end_(plan.end[0]),
        far_begin_(plan.begin[1]),
        far_end_(plan.end[1]) {}

  int pair = 0, first;

  __device__ __forceinline__ bool next() {
    first += kKeys;
    if (first < end_) return true;
    if (S::pairs == 1 || pair == 1) return false;
    pair = 1, first = far_begin_, end_ = far_end_;
    return first < end_;
  }

 private:
  int end_, far_begin_, far_end_;
};

}  // namespace quietformer::cuda
