// Packed sequences on a GPU. Their lengths are known there alone: the host makes room for as many
// tiles as there may be, and kernels search for the sequence that a row or a tile belongs to.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace quietformer::cuda {

/// Slots for tiles of `rows` rows of one sequence of `length` rows, or of all `sequences` packed
/// ones that have `length` rows together. Packed, the tiles of sequence b start at slot
/// cu[b] / rows + b: that grows with b by at least what b needs. Slots to spare hold tiles that
/// start behind their sequence's end.
QF_HOST_DEVICE std::int64_t tile_slots(std::int64_t length, int rows, bool packed, int sequences) {
  return packed ? length / rows + sequences : (length + rows - 1) / rows;
}

/// The last sequence b for which starts(b), true from 0 up to some b, holds.
template <class Starts>
QF_HOST_DEVICE int last_sequence(int sequences, const Starts& starts) {
  int low = 0, high = sequences;  // it is in [low, high)
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (starts(middle) ? low : high) = middle;
  }
  return low;
}

/// The packed sequence that owns row `at` of what `cu` cuts up: the last one that starts at or
/// before it, so empty sequences own nothing.
QF_HOST_DEVICE int owner_of(const std::int32_t* cu, int sequences, std::int64_t at) {
  return last_sequence(sequences, [&](int b) { return cu[b] <= at; });
}

struct PackedTile {
  int sequence, tile;
};

/// What slot `slot` of tile_slots() holds.
QF_HOST_DEVICE PackedTile packed_tile(const std::int32_t* cu, int sequences, int rows, int slot) {
  const int owner = last_sequence(sequences, [&](int b) { return cu[b] / rows + b <= slot; });
  return {owner, slot - (cu[owner] / rows + owner)};
}

}  // namespace quietformer::cuda
