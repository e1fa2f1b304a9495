// Which keys a query sees: a band of keys from causal and window, which costs nothing per element
// and lets whole tiles be skipped, and the boolean masks, which are looked at key by key.
//
// Query i of L sits at position p = i + S - L among S keys (bottom-right alignment). The band is
// [p - left, p + right], both ends included, cut to [0, S); causal makes right 0.
#pragma once

#include <array>
#include <cstdint>

#include "core/dtype.h"
#include "core/math.h"

namespace quietformer {

/// Keys (or queries) [begin, end); begin == end when there is none.
struct KeyRange {
  std::int64_t begin = 0, end = 0;
  QF_HOST_DEVICE std::int64_t size() const { return end - begin; }
};

class Band {
 public:
  /// `window` {left, right} as in AttentionProblem: -1 = unlimited.
  Band(std::int64_t queries, std::int64_t keys, bool causal, std::array<std::int64_t, 2> window)
      : queries_(queries), keys_(keys) {
    // Reaches of S to the left and L to the right see everything; so larger numbers cannot
    // overflow.
    left_ = window[0] < 0 || window[0] > keys ? keys : window[0];
    right_ = window[1] < 0 || window[1] > queries ? queries : window[1];
    if (causal) right_ = 0;
  }

  /// The same causality and window for a sequence that is no longer.
  QF_HOST_DEVICE Band with_lengths(std::int64_t queries, std::int64_t keys) const {
    Band band = *this;
    band.queries_ = queries;
    band.keys_ = keys;
    return band;
  }

  QF_HOST_DEVICE std::int64_t position(std::int64_t i) const { return i + keys_ - queries_; }

  /// Keys that the band lets query i see.
  QF_HOST_DEVICE KeyRange keys(std::int64_t i) const { return keys(i, i + 1); }

  /// The smallest range that holds the keys of queries [first, last): both ends grow with i.
  QF_HOST_DEVICE KeyRange keys(std::int64_t first, std::int64_t last) const {
    const std::int64_t begin = clamp(position(first) - left_, keys_);
    const std::int64_t end = clamp(position(last - 1) + right_ + 1, keys_);
    return {begin < end ? begin : end, end};
  }

  /// Queries that the band lets see any of keys [first, last). Not for an empty range of keys.
  QF_HOST_DEVICE KeyRange queries(std::int64_t first, std::int64_t last) const {
    const std::int64_t offset = keys_ - queries_;
    const std::int64_t begin = clamp(first - offset - right_, queries_);
    const std::int64_t end = clamp(last - offset + left_, queries_);
    return {begin < end ? begin : end, end};
  }

 private:
  QF_HOST_DEVICE static std::int64_t clamp(std::int64_t at, std::int64_t count) {
    return at < 0 ? 0 : (at > count ? count : at);
  }

  std::int64_t queries_, keys_, left_, right_;
};

/// One row of a boolean mask or of a broadcast tensor: element j is data[j * stride].
template <class T>
struct RowView {
  const T* data = nullptr;
  std::int64_t stride = 0;  // 0: the same for every key
  explicit operator bool() const { return data != nullptr; }
  QF_HOST_DEVICE const T& operator[](std::int64_t j) const { return data[j * stride]; }
};

/// The gradient of a weight as backward takes it: 0 where the key is hidden (score -inf). Its value
/// may be so large that do.v is infinite, and the weight's 0 times that would be NaN.
template <class T>
QF_HOST_DEVICE T visible_gradient(T score, T dweight) {
  return score > -math::kInfinity<T> ? dweight : T(0);
}

/// Writes `hidden` over the scores of keys whose mask byte is 0. Runs over `keys` of `scores`.
template <class T>
void hide(T* scores, KeyRange keys, RowView<std::uint8_t> mask, T hidden) {
  if (mask.stride == 1) {
    for (std::int64_t j = keys.begin; j < keys.end; ++j)
      scores[j] = mask.data[j] != 0 ? scores[j] : hidden;
  } else {
    for (std::int64_t j = keys.begin; j < keys.end; ++j)
      scores[j] = mask[j] != 0 ? scores[j] : hidden;
  }
}

}  // namespace quietformer
