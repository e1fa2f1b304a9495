// Seeded mutation without feedback, for the short run in the suite.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "core/random.h"

namespace quietformer::fuzz {

/// Numbers that depend on the seed alone.
class Dice {
 public:
  explicit Dice(std::uint32_t seed) : seed_(seed) {}
  std::size_t below(std::size_t bound) {
    return philox({{seed_, 77}}, next_++, 0, 0, 0).word[0] % bound;
  }

 private:
  std::uint32_t seed_, next_ = 0;
};

/// One of `corpus` after one to four edits: bits, bytes, removals, repetitions, insertions, the end
/// of another one, truncation. `corpus` is not empty.
std::string mutant(const std::vector<std::string>& corpus, Dice& dice);

}  // namespace quietformer::fuzz
