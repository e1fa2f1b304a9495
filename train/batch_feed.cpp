#include "train/batch_feed.h"

#include <string>

namespace quietformer {

BatchFeed::BatchFeed(Arena& arena, const Shape& shape, Device device, Padding padding)
    : device_(device) {
  const auto declare = [&](const std::string& prefix) {
    return Tokens{
        arena.declare(prefix + "tokens", DType::i32, shape),
        arena.declare(prefix + "targets", DType::i32, shape),
        padding == Padding::none ? Slot() : arena.declare(prefix + "valid", DType::u8, shape)};
  };
  batch_ = declare("");
  if (!ahead()) return;
  next_ = declare("next_");
  stream_ = cuda::Stream(device);
  copy_.device = device;
  copy_.stream = stream_.get();
  copied_ = cuda::Event(device);
  taken_ = cuda::Event(device);
}

TokenBatch BatchFeed::room() {
  if (!ahead()) return {batch_.tokens, batch_.targets, {}, batch_.valid};
  if (!host_tokens_.view()) {
    const Shape shape = batch_.tokens.get().shape;
    host_tokens_ = cuda::PinnedTensor(DType::i32, shape, device_);
    host_targets_ = cuda::PinnedTensor(DType::i32, shape, device_);
    if (batch_.valid) host_valid_ = cuda::PinnedTensor(DType::u8, shape, device_);
  }
  copied_.wait();
  return {host_tokens_, host_targets_, {}, host_valid_};
}

void BatchFeed::send(Padding padding) {
  QF_EXPECTS(!waiting_ && (padding == Padding::none || batch_.valid));
  waiting_ = true;
  padding_ = padding;
  if (!ahead()) return;
  taken_.hold(copy_);
  cuda::copy_async(copy_, next_.tokens, host_tokens_);
  cuda::copy_async(copy_, next_.targets, host_targets_);
  if (padding == Padding::possible) cuda::copy_async(copy_, next_.valid, host_valid_);
  copied_.record(copy_);
}

TokenBatch BatchFeed::take(const Context& ctx) {
  QF_EXPECTS(waiting_ && ctx.device == device_);
  waiting_ = false;
  const bool padded = padding_ == Padding::possible;
  if (ahead()) {
    copied_.hold(ctx);
    cuda::copy_async(ctx, batch_.tokens, next_.tokens);
    cuda::copy_async(ctx, batch_.targets, next_.targets);
    if (padded) cuda::copy_async(ctx, batch_.valid, next_.valid);
    taken_.record(ctx);
  }
  return {batch_.tokens, batch_.targets, {}, padded ? batch_.valid.get() : Tensor()};
}

}  // namespace quietformer
