// Attention dropout: rows of factors 0 or 1 / (1 - p), from counters alone (core/random.h).
#pragma once

#include "attention/attention.h"
#include "attention/mask.h"

namespace quietformer {

/// factors[j - keys.begin] for j in `keys`: 0 where (sample, head, i, j) is dropped, else 1 / (1 -
/// p).
template <class T>
void dropout_row(const AttentionDropout& dropout, std::int64_t batch, std::int64_t head,
                 std::int64_t i, KeyRange keys, T* factors);

}  // namespace quietformer
