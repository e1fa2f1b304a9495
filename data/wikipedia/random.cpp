#include "data/wikipedia/random.h"

#include "core/check.h"

namespace quietformer::wikipedia {

ZipfTable::ZipfTable(std::uint32_t count, std::uint32_t offset) : entries_(count) {
  QF_EXPECTS(count >= 1 && count <= 65536);
  // Weights below 2^20 and at most 2^16 of them: count * weight and (weight << 32) / total fit.
  std::vector<std::uint64_t> share(count);
  std::uint64_t total = 0;
  for (std::uint32_t i = 0; i < count; ++i) total += share[i] = (1u << 20) / (i + 1 + offset) + 1;
  std::vector<std::uint32_t> small, large;
  for (std::uint32_t i = 0; i < count; ++i) {
    share[i] *= count;  // in units where `total` is an even share
    (share[i] < total ? small : large).push_back(i);
  }
  while (!small.empty() && !large.empty()) {
    const std::uint32_t low = small.back(), high = large.back();
    small.pop_back();
    entries_[low] = {static_cast<std::uint32_t>((share[low] << 28) / total << 4), high};
    share[high] -= total - share[low];
    if (share[high] < total) {
      large.pop_back();
      small.push_back(high);
    }
  }
  // Integer shares sum exactly: whatever is left is a full column.
  for (std::uint32_t i : small) entries_[i] = {0xffffffffu, i};
  for (std::uint32_t i : large) entries_[i] = {0xffffffffu, i};
}

}  // namespace quietformer::wikipedia
