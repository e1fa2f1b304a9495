// Batches on their way from the host to where a model computes.
#pragma once

#include <array>
#include <cstdint>

#include "core/buffer.h"
#include "core/context.h"
#include "core/cuda/memory.h"
#include "layers/language_model.h"

namespace quietformer {

/// Batches of tokens and targets and, where wanted, of what is padding; (B, context) each.
///
/// On the CPU there is one pair of tensors, which is filled and read in turn:
///
///   feed.send() after filling feed.room();  feed.take(ctx);  ...;  feed.release(ctx)
///
/// On a GPU there are two pairs there and two of pinned host memory, so that a batch can be filled
/// and sent while the GPU computes on the one before (ahead() is true then): copies run in a stream
/// of their own and nobody waits for anything but the batch before last. The first two batches
/// allocate that host memory, later ones nothing.
class BatchFeed {
 public:
  /// Whether batches can have padding: room() then has a tensor `valid`.
  enum class Padding : std::uint8_t { none, possible };

  /// Declares what lives on `device` in `arena`, which is committed before the first send().
  BatchFeed(Arena& arena, const Shape& shape, Device device, Padding padding = Padding::none);

  /// Host tensors for the next batch; what they held has been copied.
  TokenBatch room();
  /// Sends what room() was filled with; take() gives `valid` only where it is `possible` that it
  /// says something. No more than one batch is ahead of the one taken.
  void send(Padding padding = Padding::none);
  /// The batch sent first and not taken: later work of ctx.stream finds it there.
  TokenBatch take(const Context& ctx);
  /// Earlier work of ctx.stream is the last to read the batch taken last.
  void release(const Context& ctx);

  /// Forgets a batch that was sent and not taken.
  void discard() { taken_ = sent_; }
  bool waiting() const { return sent_ > taken_; }
  /// Whether a batch can be sent while the one before is in use.
  bool ahead() const { return device_.type == DeviceType::cuda; }

 private:
  struct Lane {
    Slot tokens, targets, valid;
    cuda::PinnedTensor host_tokens, host_targets, host_valid;
    Padding padding = Padding::none;  // of the batch in it
    cuda::Event copied, used;
    TokenBatch batch() const { return {tokens, targets, {}, valid}; }
  };
  Lane& lane(std::int64_t batch) { return lanes_[ahead() ? std::size_t(batch % 2) : 0]; }

  Device device_;
  std::array<Lane, 2> lanes_;
  cuda::Stream stream_;
  Context copy_;  // on stream_
  std::int64_t sent_ = 0, taken_ = 0;
};

}  // namespace quietformer
