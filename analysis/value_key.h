// Numbers as integers of the same order. Internal to analysis/.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace quietformer {

/// Of the bits of an f32: -0 just below 0; NaN beyond the infinities, by its sign.
QF_HOST_DEVICE std::int32_t value_key(std::int32_t bits) {
  return bits ^ (bits >> 31 & 0x7fffffff);
}

/// The bin of an f32's bits; bins are in the order of keys.
QF_HOST_DEVICE std::int32_t value_bin(std::int32_t bits) {
  return (value_key(bits) >> 16) + 32768;
}

}  // namespace quietformer
