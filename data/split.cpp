#include "data/split.h"

#include <fmt/format.h>

#include <limits>

#include "core/check.h"

namespace quietformer {

std::int64_t split_total(const SplitLengths& lengths, std::int64_t context, std::string_view what) {
  static constexpr const char* kNames[] = {"training", "validation", "test"};
  QF_EXPECTS(context >= 1);
  std::int64_t total = 0;
  for (int i = 0; i < 3; ++i) {
    if (lengths[i] < 0)
      throw InputError(fmt::format("{}: {} length {} is negative", what, kNames[i], lengths[i]));
    if (lengths[i] <= context)
      throw InputError(
          fmt::format("{}: {} length {} is too short, expected at least context + 1 = {}", what,
                      kNames[i], lengths[i], context + 1));
    if (lengths[i] > std::numeric_limits<std::int64_t>::max() - total)
      throw InputError(fmt::format("{}: the sum overflows 64 bits", what));
    total += lengths[i];
  }
  return total;
}

Split make_split(const SplitLengths& lengths, std::int64_t context, const TokenSource& source,
                 std::string_view what) {
  const std::int64_t total = split_total(lengths, context, what);
  if (total > source.size())
    throw InputError(fmt::format("{}: sums to {} but {} holds {} tokens", what, total,
                                 source.name(), source.size()));
  const auto [train, validation, test] = lengths;
  return {{0, train}, {train, validation}, {train + validation, test}};
}

}  // namespace quietformer
