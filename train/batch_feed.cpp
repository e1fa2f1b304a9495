#include "train/batch_feed.h"

#include <string>

namespace quietformer {

BatchFeed::BatchFeed(Arena& arena, const Shape& shape, Device device) : device_(device) {
  for (std::size_t i = 0; i < (ahead() ? 2u : 1u); ++i) {
    Lane& lane = lanes_[i];
    const std::string suffix = ahead() ? "." + std::to_string(i) : "";
    lane.inputs = arena.declare("inputs" + suffix, DType::i32, shape);
    lane.targets = arena.declare("targets" + suffix, DType::i32, shape);
    if (!ahead()) return;
    lane.copied = cuda::Event(device);
    lane.used = cuda::Event(device);
  }
  stream_ = cuda::Stream(device);
  copy_.device = device;
  copy_.stream = stream_.get();
}

Batch BatchFeed::room() {
  Lane& next = lane(sent_);
  if (!ahead()) return {next.inputs, next.targets};
  if (!next.host_inputs.view()) {
    const Shape shape = next.inputs.get().shape;
    next.host_inputs = cuda::PinnedTensor(DType::i32, shape, device_);
    next.host_targets = cuda::PinnedTensor(DType::i32, shape, device_);
  }
  next.copied.wait();
  return {next.host_inputs, next.host_targets};
}

void BatchFeed::send() {
  QF_EXPECTS(sent_ - taken_ < (ahead() ? 2 : 1));
  Lane& next = lane(sent_++);
  if (!ahead()) return;
  next.used.hold(copy_);
  cuda::copy_async(copy_, next.inputs, next.host_inputs);
  cuda::copy_async(copy_, next.targets, next.host_targets);
  next.copied.record(copy_);
}

Batch BatchFeed::take(const Context& ctx) {
  QF_EXPECTS(waiting() && ctx.device == device_);
  Lane& oldest = lane(taken_++);
  if (ahead()) oldest.copied.hold(ctx);
  return {oldest.inputs, oldest.targets};
}

void BatchFeed::release(const Context& ctx) {
  QF_EXPECTS(taken_ > 0 && ctx.device == device_);
  if (ahead()) lane(taken_ - 1).used.record(ctx);
}

}  // namespace quietformer
