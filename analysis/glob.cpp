#include "analysis/glob.h"

namespace quietformer {

bool glob_matches(std::string_view pattern, std::string_view name) {
  constexpr std::size_t kNone = std::string_view::npos;
  // On a mismatch the latest star takes one more character. A `*` that meets a dot gives up for
  // good: what stands between it and an earlier `*` of the same component contains no dot, so
  // moving the earlier one gains nothing; only a `**` before it can.
  struct Star {
    std::size_t pattern = kNone;  // where the pattern goes on behind the star
    std::size_t name = 0;         // where the name goes on behind what the star took
  } single, deep;
  std::size_t p = 0, n = 0;
  while (n < name.size() || p < pattern.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      if (pattern.substr(p).starts_with("**")) {
        deep = {p + 2, n};
        single = {};
        p += 2;
      } else {
        single = {++p, n};
      }
      continue;
    }
    if (p < pattern.size() && n < name.size() && pattern[p] == name[n]) {
      ++p, ++n;
      continue;
    }
    if (single.pattern != kNone && single.name < name.size() && name[single.name] != '.') {
      p = single.pattern, n = ++single.name;
    } else if (deep.pattern != kNone && deep.name < name.size()) {
      single = {};
      p = deep.pattern, n = ++deep.name;
    } else {
      return false;
    }
  }
  return true;
}

}  // namespace quietformer
