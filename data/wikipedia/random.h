// Integer random numbers for generated text: the same on every platform and standard library.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace quietformer::wikipedia {

/// The finaliser of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number
/// generators", OOPSLA 2014): a bijection that looks random.
constexpr std::uint64_t mix(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

constexpr std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
  return mix(mix(a + 0x9E3779B97F4A7C15u) + b * 0xD1342543DE82EF95u);
}

/// SplitMix64.
class Random {
 public:
  explicit Random(std::uint64_t state) : state_(state) {}

  std::uint64_t next() {
    state_ += 0x9E3779B97F4A7C15u;
    return mix(state_);
  }
  /// In [0, n), n >= 1; bias below n / 2^32.
  std::uint32_t below(std::uint32_t n) {
    return static_cast<std::uint32_t>((next() >> 32) * n >> 32);
  }
  /// In [low, high].
  int between(int low, int high) {
    return low + static_cast<int>(below(static_cast<std::uint32_t>(high - low + 1)));
  }
  bool percent(std::uint32_t p) { return below(100) < p; }

 private:
  std::uint64_t state_;
};

template <std::size_t N>
const char* pick(Random& random, const char* const (&list)[N]) {
  return list[random.below(N)];
}

/// Ranks 0 .. count-1 with probability proportional to 1 / (rank + 1 + offset): Zipf's law as
/// amended by Mandelbrot. Drawn in constant time from an alias table (Walker, 1977; Vose, 1991) of
/// integer weights.
class ZipfTable {
 public:
  /// count in [1, 2^16].
  ZipfTable(std::uint32_t count, std::uint32_t offset);
  std::uint32_t draw(std::uint64_t word) const {
    const auto column = static_cast<std::uint32_t>((word >> 32) * entries_.size() >> 32);
    const Entry& entry = entries_[column];
    return static_cast<std::uint32_t>(word) < entry.threshold ? column : entry.alias;
  }
  std::uint32_t draw(Random& random) const { return draw(random.next()); }

 private:
  struct Entry {
    std::uint32_t threshold;  // of 2^32: keep the column below it
    std::uint32_t alias;
  };
  std::vector<Entry> entries_;
};

}  // namespace quietformer::wikipedia
