#include "data/windows.h"

#include <algorithm>
#include <cstring>

namespace quietformer {

Windows::Windows(const TokenSource& source, Span span, std::int64_t context, std::int64_t batch,
                 std::int64_t limit)
    : source_(source), span_(span), context_(context), batch_(batch) {
  QF_EXPECTS(context >= 1 && batch >= 1 && limit >= 0 && span.begin >= 0 && span.size >= 2);
  QF_EXPECTS(span.begin <= source.size() - span.size);
  windows_ = (span.size - 1 + context - 1) / context;
  const bool all = limit == 0 || limit >= (windows_ + batch - 1) / batch;
  taken_ = all ? windows_ : limit * batch;
}

std::int64_t Windows::window(std::int64_t index) const {
  return static_cast<std::int64_t>(static_cast<__int128>(index) * windows_ / taken_);
}

std::int64_t Windows::targets_of(std::int64_t window) const {
  return std::min(context_, span_.size - 1 - window * context_);
}

std::int64_t Windows::targets() const {
  // Only the span's last window can be short.
  return (taken_ - 1) * context_ + targets_of(window(taken_ - 1));
}

Windows::Row Windows::row_of(std::int64_t batch, std::int64_t row) const {
  const std::int64_t index = batch * batch_ + row;
  if (index >= taken_) return {span_.begin + span_.size, 0};
  const std::int64_t number = window(index);
  return {span_.begin + number * context_, targets_of(number)};
}

bool Windows::padded(std::int64_t batch) const {
  // Only the last row can be short, and only the last batch can lack rows.
  return row_of(batch, batch_ - 1).count < context_;
}

std::int64_t Windows::fill(std::int64_t batch, const Tensor& inputs, const Tensor& targets,
                           std::int64_t first_row) const {
  const std::int64_t rows = inputs.shape[0];
  QF_EXPECTS(inputs.shape.rank == 2 && inputs.shape[1] == context_ && inputs.contiguous());
  QF_EXPECTS(targets.shape == inputs.shape && targets.contiguous());
  QF_EXPECTS(batch >= 0 && batch < batches() && first_row >= 0 && first_row + rows <= batch_);
  std::int32_t* in = inputs.as<std::int32_t>();
  std::int32_t* target = targets.as<std::int32_t>();
  std::int64_t live = 0;
  for (std::int64_t row = 0; row < rows; ++row, in += context_, target += context_) {
    const auto [begin, count] = row_of(batch, first_row + row);
    if (count > 0) {
      source_.copy(begin, count, in);
      std::memcpy(target, in + 1, static_cast<std::size_t>(count - 1) * sizeof(*in));
      source_.copy(begin + count, 1, target + count - 1);
    }
    std::fill(in + count, in + context_, 0);
    std::fill(target + count, target + context_, kIgnoredTarget);
    live += count;
  }
  return live;
}

std::int64_t Windows::fill_masked(std::int64_t batch, const Masking& masking,
                                  std::int32_t padding_token, const Tensor& tokens,
                                  const Tensor& targets, const Tensor& valid,
                                  std::int64_t first_row) const {
  QF_EXPECTS(valid.shape == tokens.shape && valid.contiguous());
  fill(batch, tokens, targets, first_row);
  std::int64_t chosen = 0;
  for (std::int64_t row = 0; row < tokens.shape[0]; ++row) {
    const auto [begin, count] = row_of(batch, first_row + row);
    std::int32_t* token = tokens.as<std::int32_t>() + row * context_;
    std::uint8_t* real = valid.as<std::uint8_t>() + row * context_;
    chosen += masking.evaluation(begin, count, token, targets.as<std::int32_t>() + row * context_);
    std::fill(token + count, token + context_, padding_token);
    std::fill(real, real + count, std::uint8_t{1});
    std::fill(real + count, real + context_, std::uint8_t{0});
  }
  return chosen;
}

}  // namespace quietformer
