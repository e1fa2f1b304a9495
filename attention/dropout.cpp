#include "attention/dropout.h"

#include <fmt/format.h>

#include <algorithm>

namespace quietformer {
namespace {

constexpr std::int64_t kStrip = 64;  // keys whose random words are made together

/// Calls f(first, count, words) for strips of the range; words[j] belongs to key first + j. One
/// Philox call serves four neighbours, and a strip's calls vectorise.
template <class F>
void for_each_strip(const AttentionDropout& dropout, std::int64_t batch, std::int64_t head,
                    std::int64_t i, KeyRange keys, F&& f) {
  const std::uint32_t sample = dropout.first_sample + static_cast<std::uint32_t>(batch);
  for (std::int64_t strip = keys.begin / kStrip * kStrip; strip < keys.end; strip += kStrip) {
    std::uint32_t words[kStrip];
#pragma omp simd
    for (std::uint32_t quad = 0; quad < kStrip / 4; ++quad) {
      const Philox4 bits =
          dropout_bits(dropout.key, sample, static_cast<std::uint32_t>(head),
                       static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(strip) + 4 * quad);
      words[4 * quad] = bits.word[0];
      words[4 * quad + 1] = bits.word[1];
      words[4 * quad + 2] = bits.word[2];
      words[4 * quad + 3] = bits.word[3];
    }
    const std::int64_t begin = std::max(strip, keys.begin),
                       end = std::min(strip + kStrip, keys.end);
    f(begin, end - begin, words + (begin - strip));
  }
}

}  // namespace

template <class T>
void dropout_row(const AttentionDropout& dropout, std::int64_t batch, std::int64_t head,
                 std::int64_t i, KeyRange keys, T* factors) {
  const T kept = T(1 / (1 - dropout.probability));
  const std::uint32_t threshold = dropout_threshold(dropout.probability);
  for_each_strip(dropout, batch, head, i, keys,
                 [&](std::int64_t first, std::int64_t count, const std::uint32_t* words) {
                   for (std::int64_t j = 0; j < count; ++j)
                     factors[first - keys.begin + j] = words[j] >= threshold ? kept : T(0);
                 });
}

template void dropout_row(const AttentionDropout&, std::int64_t, std::int64_t, std::int64_t,
                          KeyRange, float*);
template void dropout_row(const AttentionDropout&, std::int64_t, std::int64_t, std::int64_t,
                          KeyRange, double*);

void dump_dropout_mask(const AttentionDropout& dropout, const Tensor& mask) {
  if (mask.shape.rank != 4 || mask.dtype != DType::u8 || !mask.contiguous())
    throw InputError(fmt::format("dropout mask: {} {}, expected a contiguous u8 (B, H, L, S)",
                                 name_of(mask.dtype), to_string(mask.shape)));
  const std::uint32_t threshold = dropout_threshold(dropout.probability);
  std::uint8_t* row = mask.as<std::uint8_t>();
  for (std::int64_t b = 0; b < mask.shape[0]; ++b)
    for (std::int64_t h = 0; h < mask.shape[1]; ++h)
      for (std::int64_t i = 0; i < mask.shape[2]; ++i, row += mask.shape[3])
        for_each_strip(dropout, b, h, i, {0, mask.shape[3]},
                       [&](std::int64_t first, std::int64_t count, const std::uint32_t* words) {
                         for (std::int64_t j = 0; j < count; ++j)
                           row[first + j] = words[j] >= threshold ? 1 : 0;
                       });
}

}  // namespace quietformer
