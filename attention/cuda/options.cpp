#include "attention/cuda/options.h"

namespace quietformer::cuda {
namespace {

template <class T>
Broadcast<T> broadcast(const Tensor& tensor) {
  if (tensor.shape.rank == 0) return {};
  const auto step = [&](int dim) { return tensor.shape[dim] == 1 ? 0 : tensor.stride[dim]; };
  return {tensor.as<T>(), step(0), step(1), step(2), step(3)};
}

}  // namespace

FlashOptions::FlashOptions(const Context& ctx, const AttentionProblem& p)
    : mask(broadcast<std::uint8_t>(p.mask)),
      bias(broadcast<float>(p.bias)),
      dropout(p.dropout.probability > 0 && ctx.mode == Mode::train),
      stream{{p.dropout.key, p.dropout.first_sample}, p.dropout.place},
      threshold(dropout_threshold(p.dropout.probability)),
      kept(dropout ? static_cast<float>(1 / (1 - p.dropout.probability)) : 1),
      sequences(static_cast<int>(p.batch())) {
  if (const Tensor& padding = p.key_padding; padding.shape.rank != 0)
    key_padding = {padding.as<std::uint8_t>(), padding.stride[0], 0, 0, padding.stride[1]};
  if (const Tensor& tensor = p.alibi_slopes; tensor.shape.rank != 0)
    slopes = {tensor.as<float>(), tensor.shape.rank == 2 ? tensor.stride[0] : 0,
              tensor.stride[tensor.shape.rank - 1], 0, 0};
  if (p.packed()) {
    cu_queries = p.cu_seqlens_q.as<std::int32_t>();
    cu_keys = p.cu_seqlens_k.as<std::int32_t>();
  }
}

}  // namespace quietformer::cuda
