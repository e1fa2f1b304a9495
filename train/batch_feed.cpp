#include "train/batch_feed.h"

namespace quietformer {

BatchFeed::BatchFeed(Arena& arena, const Shape& shape, Device device) : device_(device) {
  inputs_ = arena.declare("inputs", DType::i32, shape);
  targets_ = arena.declare("targets", DType::i32, shape);
  if (!ahead()) return;
  next_inputs_ = arena.declare("next_inputs", DType::i32, shape);
  next_targets_ = arena.declare("next_targets", DType::i32, shape);
  stream_ = cuda::Stream(device);
  copy_.device = device;
  copy_.stream = stream_.get();
  copied_ = cuda::Event(device);
  taken_ = cuda::Event(device);
}

Batch BatchFeed::room() {
  if (!ahead()) return {inputs_, targets_};
  if (!host_inputs_.view()) {
    const Shape shape = inputs_.get().shape;
    host_inputs_ = cuda::PinnedTensor(DType::i32, shape, device_);
    host_targets_ = cuda::PinnedTensor(DType::i32, shape, device_);
  }
  copied_.wait();
  return {host_inputs_, host_targets_};
}

void BatchFeed::send() {
  QF_EXPECTS(!waiting_);
  waiting_ = true;
  if (!ahead()) return;
  taken_.hold(copy_);
  cuda::copy_async(copy_, next_inputs_, host_inputs_);
  cuda::copy_async(copy_, next_targets_, host_targets_);
  copied_.record(copy_);
}

Batch BatchFeed::take(const Context& ctx) {
  QF_EXPECTS(waiting_ && ctx.device == device_);
  waiting_ = false;
  if (ahead()) {
    copied_.hold(ctx);
    cuda::copy_async(ctx, inputs_, next_inputs_);
    cuda::copy_async(ctx, targets_, next_targets_);
    taken_.record(ctx);
  }
  return {inputs_, targets_};
}

}  // namespace quietformer
