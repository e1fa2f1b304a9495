#include "data/sampler.h"

#include <cstring>

namespace quietformer {

Sampler::Sampler(const TokenSource& source, Span span, std::int64_t context)
    : source_(source), span_(span), context_(context) {
  QF_EXPECTS(context >= 1 && span.begin >= 0 && span.size > context);
  QF_EXPECTS(span.begin <= source.size() - span.size);
}

std::int64_t Sampler::position(const RandomState& random, std::uint32_t sample) const {
  const Philox4 bits = philox(random.key(RandomPurpose::sample_position, 0), sample, 0, 0, 0);
  const std::uint64_t word = std::uint64_t{bits.word[1]} << 32 | bits.word[0];
  const auto positions = static_cast<std::uint64_t>(span_.size - context_);
  // floor(word / 2^64 * positions): no start is favoured by more than positions / 2^64.
  const auto offset =
      static_cast<std::uint64_t>(static_cast<unsigned __int128>(word) * positions >> 64);
  return span_.begin + static_cast<std::int64_t>(offset);
}

void Sampler::fill(const RandomState& random, const Tensor& inputs, const Tensor& targets) const {
  QF_EXPECTS(inputs.shape.rank == 2 && inputs.shape[1] == context_ && inputs.contiguous());
  QF_EXPECTS(targets.shape == inputs.shape && targets.contiguous());
  std::int32_t* in = inputs.as<std::int32_t>();
  std::int32_t* target = targets.as<std::int32_t>();
  for (std::int64_t row = 0; row < inputs.shape[0]; ++row) {
    const std::int64_t at = position(random, random.first_sample + static_cast<std::uint32_t>(row));
    source_.copy(at, context_, in);
    std::memcpy(target, in + 1, static_cast<std::size_t>(context_ - 1) * sizeof(*in));
    source_.copy(at + context_, 1, target + context_ - 1);
    in += context_;
    target += context_;
  }
}

}  // namespace quietformer
