#include "layers/embedding.h"

#include <fmt/format.h>

#include <cmath>

#include "layers/cuda/operations.h"
#include "layers/position.h"
#include "layers/rows.h"

namespace quietformer {
namespace {

void check_shapes(const Tensor& y, const Tensor& tokens, const Tensor& weight,
                  const Tensor& positions, DType dtype) {
  QF_EXPECTS(y.shape.rank == 3 && y.contiguous() && weight.contiguous() && tokens.contiguous());
  QF_EXPECTS(tokens.shape == (Shape{y.shape[0], y.shape[1]}) && tokens.dtype == DType::i32);
  QF_EXPECTS(weight.shape.rank == 2 && weight.shape[1] == y.shape[2] && weight.dtype == dtype);
  QF_EXPECTS(!positions || (positions.shape.rank == 2 && positions.contiguous() &&
                            positions.shape[0] >= y.shape[1] && positions.shape[1] == y.shape[2] &&
                            positions.dtype == dtype));
}

}  // namespace

void embedding_forward(const Context& ctx, const Tensor& y, const Tensor& tokens,
                       const Tensor& weight, const Tensor& positions, double scale) {
  check_shapes(y, tokens, weight, positions, y.dtype);
  if (ctx.device.type == DeviceType::cuda)
    return cuda::embedding_forward(ctx, y, tokens, weight, positions, scale);
  const std::int64_t length = y.shape[1], n = y.shape[2], vocab = weight.shape[0];
  dispatch_floating(y.dtype, [&]<class T>() {
    const T factor = T(scale);
    parallel_for(ctx, rows_of(y), row_grain(n), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) {
        const std::int64_t id = tokens.as<std::int32_t>()[r];
        if (id < 0 || id >= vocab)
          throw InputError(fmt::format("token {}: id {}, expected 0 to {} (model.vocab {})", r, id,
                                       vocab - 1, vocab));
        T* out = y.as<T>() + r * n;
        const T* in = weight.as<T>() + id * n;
        if (positions) {
          const T* add = positions.as<T>() + r % length * n;
          simd_for(0, n, [=](std::int64_t i) { out[i] = factor * in[i] + add[i]; });
        } else {
          simd_for(0, n, [=](std::int64_t i) { out[i] = factor * in[i]; });
        }
      }
    });
  });
}

void embedding_backward(const Context& ctx, const Tensor& d_weight, const Tensor& d_positions,
                        const Tensor& dy, const Tensor& tokens, double scale) {
  check_shapes(dy, tokens, d_weight, d_positions, accumulation_dtype(dy.dtype));
  if (ctx.device.type == DeviceType::cuda)
    return cuda::embedding_backward(ctx, d_weight, d_positions, dy, tokens, scale);
  const std::int64_t length = dy.shape[1], n = dy.shape[2], rows = rows_of(dy);
  // Threads share columns, so every sum has one owner and a fixed order whatever the tokens are.
  constexpr std::int64_t kColumns = 64;
  dispatch_floating(dy.dtype, [&]<class T>() {
    const T factor = T(scale);
    parallel_for(ctx, n, kColumns, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = 0; r < rows; ++r) {
        T* out = d_weight.as<T>() + tokens.as<std::int32_t>()[r] * n;
        const T* in = dy.as<T>() + r * n;
        simd_for(begin, end, [=](std::int64_t i) { out[i] += factor * in[i]; });
      }
    });
    if (!d_positions) return;
    parallel_for(ctx, length, row_grain(n), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = 0; r < rows; r += length)
        for (std::int64_t t = begin; t < end; ++t) {
          T* out = d_positions.as<T>() + t * n;
          const T* in = dy.as<T>() + (r + t) * n;
          simd_for(0, n, [=](std::int64_t i) { out[i] += in[i]; });
        }
    });
  });
}

Embedding::Embedding(ParameterList& parameters, const Description& description)
    : tokens_(parameters.add("token_embedding.weight", {description.vocab, description.dim},
                             description.init)) {
  const Shape shape{description.context, description.dim};
  if (description.positions == Positions::learned)
    positions_ = parameters.add("position_embedding.weight", shape, description.init);
  if (description.positions == Positions::sinusoidal) {
    sinusoids_ = OwnedTensor(parameters.dtype(), shape, parameters.device());
    fill_sinusoids(sinusoids_);
    scale_ = std::sqrt(static_cast<double>(description.dim));
  }
}

void Embedding::forward(const Context& ctx, const Tensor& y, const Tensor& tokens) {
  input_ = tokens;
  embedding_forward(ctx, y, tokens, tokens_.value,
                    positions_.value ? positions_.value.get() : sinusoids_.view(), scale_);
}

void Embedding::backward(const Context& ctx, const Tensor& dy) {
  embedding_backward(ctx, tokens_.grad, positions_.grad, dy, input_, scale_);
}

Embedding::Description embedding_of(const ModelConfig& model) {
  Embedding::Description description;
  description.vocab = model.vocab;
  description.dim = model.dim;
  description.context = model.context;
  description.init = Init::normal(model.init_std);
  switch (find_position(model.position)) {
    case PositionKind::learned:
      description.positions = Embedding::Positions::learned;
      break;
    case PositionKind::sinusoidal:
      description.positions = Embedding::Positions::sinusoidal;
      break;
    case PositionKind::rotary:
    case PositionKind::none:
      break;
  }
  return description;
}

}  // namespace quietformer
