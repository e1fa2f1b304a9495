// Training, validation and test parts of a source.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "data/source.h"

namespace quietformer {

/// A contiguous part of a source, in tokens.
struct Span {
  std::int64_t begin = 0;
  std::int64_t size = 0;
};

/// Three spans, one after the other from the source's start.
struct Split {
  Span train, validation, test;
};

/// Lengths of the training, validation and test spans, in tokens.
using SplitLengths = std::array<std::int64_t, 3>;

/// The sum of the lengths. Throws InputError when one is negative or shorter than context + 1, the
/// least that holds one training window. `what` begins every message.
std::int64_t split_total(const SplitLengths& lengths, std::int64_t context,
                         std::string_view what = "data.split");

/// Cuts a source; throws as split_total does, and when the lengths exceed the source.
Split make_split(const SplitLengths& lengths, std::int64_t context, const TokenSource& source,
                 std::string_view what = "data.split");

}  // namespace quietformer
