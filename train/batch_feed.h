// Batches on their way from the host to where a model computes.
#pragma once

#include <cstdint>

#include "core/buffer.h"
#include "core/context.h"
#include "core/cuda/memory.h"

namespace quietformer {

/// i32 (B, context) each.
struct Batch {
  Tensor inputs, targets;
};

/// A batch is filled, sent and taken in turn:
///
///   feed.send() after filling feed.room();  feed.take(ctx);  ...
///
/// On the CPU all three are one pair of tensors. On a GPU (ahead() is true then) room() is pinned
/// host memory, sent batches wait in a pair of their own there and take() moves them to the pair
/// that it returns, always the same one. So a batch can be filled and sent while the GPU computes
/// on the one before: copies run in a stream of their own, the host waits for nothing but the copy
/// of the batch sent last, and work recorded once (cuda::Graph) finds every batch. The first batch
/// allocates the host's memory, later ones nothing.
class BatchFeed {
 public:
  /// Declares what lives on `device` in `arena`, which is committed before the first send().
  BatchFeed(Arena& arena, const Shape& shape, Device device);

  /// Host tensors for the next batch; what they held has been copied.
  Batch room();
  /// Sends what room() was filled with; no batch is waiting.
  void send();
  /// The batch that waits: later work of ctx.stream finds it there, and earlier work is the last to
  /// find the batch before. The stream is always the same.
  Batch take(const Context& ctx);

  /// Forgets a batch that was sent and not taken.
  void discard() { waiting_ = false; }
  bool waiting() const { return waiting_; }
  /// Whether a batch can be sent while the one before is in use.
  bool ahead() const { return device_.type == DeviceType::cuda; }

 private:
  Device device_;
  Slot inputs_, targets_;
  bool waiting_ = false;
  // On a GPU:
  Slot next_inputs_, next_targets_;
  cuda::PinnedTensor host_inputs_, host_targets_;
  cuda::Stream stream_;
  Context copy_;                // on stream_
  cuda::Event copied_, taken_;  // the host's tensors and the waiting ones are free again
};

}  // namespace quietformer
