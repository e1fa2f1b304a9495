#include "train/batch_feed.h"

#include <string>

namespace quietformer {

BatchFeed::BatchFeed(Arena& arena, const Shape& shape, Device device, Padding padding)
    : device_(device) {
  for (std::size_t i = 0; i < (ahead() ? 2u : 1u); ++i) {
    Lane& lane = lanes_[i];
    const std::string suffix = ahead() ? "." + std::to_string(i) : "";
    lane.tokens = arena.declare("tokens" + suffix, DType::i32, shape);
    lane.targets = arena.declare("targets" + suffix, DType::i32, shape);
    if (padding == Padding::possible)
      lane.valid = arena.declare("valid" + suffix, DType::u8, shape);
    if (!ahead()) return;
    lane.copied = cuda::Event(device);
    lane.used = cuda::Event(device);
  }
  stream_ = cuda::Stream(device);
  copy_.device = device;
  copy_.stream = stream_.get();
}

TokenBatch BatchFeed::room() {
  Lane& next = lane(sent_);
  if (!ahead()) return next.batch();
  if (!next.host_tokens.view()) {
    const Shape shape = next.tokens.get().shape;
    next.host_tokens = cuda::PinnedTensor(DType::i32, shape, device_);
    next.host_targets = cuda::PinnedTensor(DType::i32, shape, device_);
    if (next.valid) next.host_valid = cuda::PinnedTensor(DType::u8, shape, device_);
  }
  next.copied.wait();
  return {next.host_tokens, next.host_targets, {}, next.host_valid};
}

void BatchFeed::send(Padding padding) {
  QF_EXPECTS(sent_ - taken_ < (ahead() ? 2 : 1));
  Lane& next = lane(sent_++);
  QF_EXPECTS(padding == Padding::none || next.valid);
  next.padding = padding;
  if (!ahead()) return;
  next.used.hold(copy_);
  cuda::copy_async(copy_, next.tokens, next.host_tokens);
  cuda::copy_async(copy_, next.targets, next.host_targets);
  if (padding == Padding::possible) cuda::copy_async(copy_, next.valid, next.host_valid);
  next.copied.record(copy_);
}

TokenBatch BatchFeed::take(const Context& ctx) {
  QF_EXPECTS(waiting() && ctx.device == device_);
  Lane& oldest = lane(taken_++);
  if (ahead()) oldest.copied.hold(ctx);
  TokenBatch batch = oldest.batch();
  if (oldest.padding == Padding::none) batch.valid = {};
  return batch;
}

void BatchFeed::release(const Context& ctx) {
  QF_EXPECTS(taken_ > 0 && ctx.device == device_);
  if (ahead()) lane(taken_ - 1).used.record(ctx);
}

}  // namespace quietformer
