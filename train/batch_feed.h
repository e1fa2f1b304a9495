// Batches on their way from the host to where a model computes.
#pragma once

#include <cstdint>

#include "core/buffer.h"
#include "core/context.h"
#include "core/cuda/memory.h"
#include "layers/language_model.h"

namespace quietformer {

/// Batches of tokens and targets and, where wanted, of what is padding; (B, context) each. A batch
/// is filled, sent and taken in turn:
///
///   feed.send() after filling feed.room();  feed.take(ctx);  ...
///
/// On the CPU all three are the same tensors. On a GPU (ahead() is true then) room() is pinned
/// host memory, sent batches wait in tensors of their own there and take() moves them to those
/// that it returns, always the same. So a batch can be filled and sent while the GPU computes
/// on the one before: copies run in a stream of their own, the host waits for nothing but the copy
/// of the batch sent last, and work recorded once (cuda::Graph) finds every batch. The first batch
/// allocates the host's memory, later ones nothing.
class BatchFeed {
 public:
  /// Whether batches can have padding: room() then has a tensor `valid`.
  enum class Padding : std::uint8_t { none, possible };

  /// Declares what lives on `device` in `arena`, which is committed before the first send().
  BatchFeed(Arena& arena, const Shape& shape, Device device, Padding padding = Padding::none);

  /// Host tensors for the next batch; what they held has been copied.
  TokenBatch room();
  /// Sends what room() was filled with; take() gives `valid` only where it is `possible` that it
  /// says something. No batch is waiting.
  void send(Padding padding = Padding::none);
  /// The batch that waits: later work of ctx.stream finds it there, and earlier work is the last to
  /// find the batch before. The stream is always the same.
  TokenBatch take(const Context& ctx);

  /// Forgets a batch that was sent and not taken.
  void discard() { waiting_ = false; }
  bool waiting() const { return waiting_; }
  /// Whether a batch can be sent while the one before is in use.
  bool ahead() const { return device_.type == DeviceType::cuda; }

 private:
  struct Tokens {
    Slot tokens, targets, valid;  // valid: where there can be padding
  };

  Device device_;
  Tokens batch_;
  bool waiting_ = false;
  Padding padding_ = Padding::none;  // of the batch sent last
  // On a GPU:
  Tokens next_;
  cuda::PinnedTensor host_tokens_, host_targets_, host_valid_;
  cuda::Stream stream_;
  Context copy_;                // on stream_
  cuda::Event copied_, taken_;  // the host's tensors and the waiting ones are free again
};

}  // namespace quietformer
