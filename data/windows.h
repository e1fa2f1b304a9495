// Evaluation over a whole span.
#pragma once

#include <cstdint>

#include "core/tensor.h"
#include "data/masking.h"
#include "data/source.h"
#include "data/split.h"

namespace quietformer {

/// Marks a position whose target is unknown: losses and statistics skip it.
inline constexpr std::int32_t kIgnoredTarget = -100;

/// Cuts a span into windows of context + 1 tokens that overlap by one, so that every token but the
/// span's first is a target exactly once, and deals them out in batches. The last window may be
/// shorter and the last batch may have empty rows: there inputs are 0 and targets kIgnoredTarget.
/// The source must outlive the object.
class Windows {
 public:
  /// `batch`: rows of a batch, over all ranks. `limit`: take only this many batches, of windows
  /// spread evenly over the span; 0, or as many as there are: everything. The span must hold at
  /// least 2 tokens.
  Windows(const TokenSource& source, Span span, std::int64_t context, std::int64_t batch,
          std::int64_t limit = 0);

  std::int64_t batches() const { return (taken_ + batch_ - 1) / batch_; }
  std::int64_t windows() const { return taken_; }  // in all batches together
  /// Targets in all batches together that are not ignored; span.size - 1 when nothing is left out.
  std::int64_t targets() const;

  /// Fills inputs and targets, both i32 (B, context), with rows [first_row, first_row + B) of a
  /// batch: a rank asks for its own rows. Returns how many targets are not ignored. Allocates
  /// nothing. Throws InputError when the source does (an id out of range).
  std::int64_t fill(std::int64_t batch, const Tensor& inputs, const Tensor& targets,
                    std::int64_t first_row = 0) const;

  /// For an encoder: tokens as fill() writes inputs, so all of the span but its last token, masked
  /// by masking.evaluation(); valid u8 (B, context) is 1 for them and 0 elsewhere, where tokens are
  /// padding_token. Returns how many targets are not ignored.
  std::int64_t fill_masked(std::int64_t batch, const Masking& masking, std::int32_t padding_token,
                           const Tensor& tokens, const Tensor& targets, const Tensor& valid,
                           std::int64_t first_row = 0) const;
  /// Whether some positions of a batch are padding.
  bool padded(std::int64_t batch) const;

 private:
  struct Row {
    std::int64_t begin, count;  // of its inputs, along the source
  };
  Row row_of(std::int64_t batch, std::int64_t row) const;
  std::int64_t window(std::int64_t index) const;       // number along the span of a taken window
  std::int64_t targets_of(std::int64_t window) const;  // its targets: context, or fewer in the last

  const TokenSource& source_;
  Span span_;
  std::int64_t context_;
  std::int64_t batch_;
  std::int64_t windows_;  // in the span
  std::int64_t taken_;    // of them
};

}  // namespace quietformer
