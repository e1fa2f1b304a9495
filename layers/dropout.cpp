#include "layers/dropout.h"

#include <cstring>

#include "core/random.h"
#include "layers/cuda/operations.h"
#include "layers/rows.h"

namespace quietformer {
namespace {

constexpr std::int64_t kCalls = 16;          // Philox calls made side by side
constexpr std::int64_t kBlock = 4 * kCalls;  // features they decide

/// The words that dropout_bits gives for features first, first + 1, ... (first divisible by 4), for
/// kCalls calls in lockstep: the same arithmetic as philox(), laid out so that it vectorises.
void philox_block(RandomKey key, std::uint32_t first, std::uint32_t t, std::uint32_t site,
                  std::uint32_t sample, std::uint32_t (&words)[kBlock]) {
  std::uint32_t c0[kCalls], c1[kCalls], c2[kCalls], c3[kCalls];
  for (std::uint32_t l = 0; l < kCalls; ++l)
    c0[l] = (first >> 2) + l, c1[l] = t, c2[l] = site, c3[l] = sample;
  std::uint32_t k0 = key.word[0], k1 = key.word[1];
  for (int round = 0; round < 10; ++round) {
    for (std::int64_t l = 0; l < kCalls; ++l) {
      const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c0[l];
      const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * c2[l];
      c0[l] = static_cast<std::uint32_t>(p1 >> 32) ^ c1[l] ^ k0;
      c2[l] = static_cast<std::uint32_t>(p0 >> 32) ^ c3[l] ^ k1;
      c1[l] = static_cast<std::uint32_t>(p1);
      c3[l] = static_cast<std::uint32_t>(p0);
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  for (std::int64_t l = 0; l < kCalls; ++l) {
    words[4 * l] = c0[l];
    words[4 * l + 1] = c1[l];
    words[4 * l + 2] = c2[l];
    words[4 * l + 3] = c3[l];
  }
}

}  // namespace

bool active(const Context& ctx, const Dropout& dropout) {
  return ctx.mode == Mode::train && dropout.probability > 0;
}

void dropout_apply(const Context& ctx, const Dropout& dropout, const Tensor& y, const Tensor& x) {
  QF_EXPECTS(x.shape.rank == 3 && y.shape == x.shape && x.dtype == y.dtype);
  QF_EXPECTS(x.contiguous() && y.contiguous());
  const std::int64_t length = x.shape[1], n = x.shape[2];
  const bool drops = active(ctx, dropout);
  if (!drops && y.data == x.data) return;
  if (ctx.device.type == DeviceType::cuda) return cuda::dropout_apply(ctx, dropout, y, x);
  const RandomKey key = ctx.random.key(RandomPurpose::dropout, dropout.layer);
  const std::uint32_t threshold = dropout_threshold(dropout.probability);
  const auto site = static_cast<std::uint32_t>(dropout.site);
  dispatch_floating(x.dtype, [&]<class T>() {
    const T gain = T(1 / (1 - dropout.probability));
    parallel_for(ctx, rows_of(x), row_grain(n), [&](std::int64_t begin, std::int64_t end) {
      if (!drops) {
        std::memcpy(y.as<T>() + begin * n, x.as<T>() + begin * n,
                    static_cast<std::size_t>((end - begin) * n) * sizeof(T));
        return;
      }
      std::uint32_t words[kBlock];
      for (std::int64_t r = begin; r < end; ++r) {
        const auto sample = static_cast<std::uint32_t>(ctx.random.first_sample + r / length);
        for (std::int64_t c = 0; c < n; c += kBlock) {
          philox_block(key, static_cast<std::uint32_t>(c), static_cast<std::uint32_t>(r % length),
                       site, sample, words);
          T* out = y.as<T>() + r * n + c;
          const T* in = x.as<T>() + r * n + c;
          simd_for(0, std::min(kBlock, n - c), [=, &words](std::int64_t i) {
            out[i] = words[i] >= threshold ? in[i] * gain : T(0);
          });
        }
      }
    });
  });
}

}  // namespace quietformer
