// Batches on their way from the host to where a model computes.
#pragma once

#include <array>
#include <cstdint>

#include "core/buffer.h"
#include "core/context.h"
#include "core/cuda/memory.h"

namespace quietformer {

/// i32 (B, context) each.
struct Batch {
  Tensor inputs, targets;
};

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
  /// Declares what lives on `device` in `arena`, which is committed before the first send().
  BatchFeed(Arena& arena, const Shape& shape, Device device);

  /// Host tensors for the next batch; what they held has been copied.
  Batch room();
  /// Sends what room() was filled with. No more than one batch is ahead of the one taken.
  void send();
  /// The batch sent first and not taken: later work of ctx.stream finds it there.
  Batch take(const Context& ctx);
  /// Earlier work of ctx.stream is the last to read the batch taken last.
  void release(const Context& ctx);

  /// Forgets a batch that was sent and not taken.
  void discard() { taken_ = sent_; }
  bool waiting() const { return sent_ > taken_; }
  /// Whether a batch can be sent while the one before is in use.
  bool ahead() const { return device_.type == DeviceType::cuda; }

 private:
  struct Lane {
    Slot inputs, targets;
    cuda::PinnedTensor host_inputs, host_targets;
    cuda::Event copied, used;
  };
  Lane& lane(std::int64_t batch) { return lanes_[ahead() ? std::size_t(batch % 2) : 0]; }

  Device device_;
  std::array<Lane, 2> lanes_;
  cuda::Stream stream_;
  Context copy_;  // on stream_
  std::int64_t sent_ = 0, taken_ = 0;
};

}  // namespace quietformer
