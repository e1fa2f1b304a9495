#include "layers/position.h"

#include <cmath>
#include <utility>

#include "core/cuda/memory.h"
#include "layers/cuda/operations.h"
#include "layers/rows.h"

namespace quietformer {
namespace {

/// One head vector. Direction +1 rotates forward, -1 back.
template <class T>
void rotate(T* y, const T* x, const T* cosine, const T* sine, T direction, std::int64_t half,
            Accumulate accumulate) {
  if (accumulate == Accumulate::add)
    simd_for(0, half, [=](std::int64_t d) {
      const T a = x[d], b = x[d + half], c = cosine[d], s = direction * sine[d];
      y[d] += a * c - b * s;
      y[d + half] += b * c + a * s;
    });
  else
    simd_for(0, half, [=](std::int64_t d) {
      const T a = x[d], b = x[d + half], c = cosine[d], s = direction * sine[d];
      y[d] = a * c - b * s;
      y[d + half] = b * c + a * s;
    });
}

void rotate_all(const Context& ctx, const Tensor& y, const Tensor& x, const RotaryTable& table,
                const Tensor& positions, int direction, Accumulate accumulate) {
  QF_EXPECTS(x.shape.rank == 4 && y.shape == x.shape && x.dtype == y.dtype);
  QF_EXPECTS(x.stride[3] == 1 && y.stride[3] == 1);
  const std::int64_t length = x.shape[1], heads = x.shape[2], half = x.shape[3] / 2;
  QF_EXPECTS(table.cosine().shape[1] * 2 == x.shape[3] &&
             table.cosine().dtype == accumulation_dtype(x.dtype));
  QF_EXPECTS(positions.dtype == DType::i32 && positions.count() == length);
  if (ctx.device.type == DeviceType::cuda)
    return cuda::rotate(ctx, y, x, table, positions, direction, accumulate);
  const std::int64_t grain = row_grain(heads * half * 2);
  dispatch_floating(x.dtype, [&]<class T>() {
    parallel_for(ctx, x.shape[0] * length, grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        const std::int64_t b = row / length, t = row % length;
        const std::int64_t position = positions.as<std::int32_t>()[t];
        QF_EXPECTS(position >= 0 && position < table.cosine().shape[0]);
        const T* cosine = table.cosine().as<T>() + position * half;
        const T* sine = table.sine().as<T>() + position * half;
        T* out = y.as<T>() + b * y.stride[0] + t * y.stride[1];
        const T* in = x.as<T>() + b * x.stride[0] + t * x.stride[1];
        for (std::int64_t h = 0; h < heads; ++h)
          rotate(out + h * y.stride[2], in + h * x.stride[2], cosine, sine, T(direction), half,
                 accumulate);
      }
    });
  });
}

}  // namespace

void fill_sinusoids(const Tensor& table) {
  QF_EXPECTS(table.shape.rank == 2 && table.contiguous());
  if (table.device.type == DeviceType::cuda) {
    OwnedTensor host(accumulation_dtype(table.dtype), table.shape);
    fill_sinusoids(host);
    if (host.view().dtype == table.dtype) return cuda::copy(table, host);
    Context ctx;
    ctx.device = table.device;
    cuda::convert(ctx, table, to_device(std::move(host), table.device));
    return cuda::synchronize(table.device);
  }
  const std::int64_t n = table.shape[1];
  dispatch_floating(table.dtype, [&]<class T>() {
    for (std::int64_t t = 0; t < table.shape[0]; ++t)
      for (std::int64_t i = 0; i < n; ++i) {
        const double angle = double(t) * std::pow(10000.0, -double(i / 2 * 2) / double(n));
        table.as<T>()[t * n + i] = T(i % 2 == 0 ? std::sin(angle) : std::cos(angle));
      }
  });
}

RotaryTable::RotaryTable(DType dtype, std::int64_t head_dim, std::int64_t positions, double base,
                         Device device)
    : cosine_(dtype, {positions, head_dim / 2}), sine_(dtype, {positions, head_dim / 2}) {
  QF_EXPECTS(head_dim % 2 == 0);
  const std::int64_t half = head_dim / 2;
  dispatch_floating(dtype, [&]<class T>() {
    for (std::int64_t d = 0; d < half; ++d) {
      const double frequency = std::pow(base, -2.0 * double(d) / double(head_dim));
      for (std::int64_t p = 0; p < positions; ++p) {
        cosine_.as<T>()[p * half + d] = T(std::cos(double(p) * frequency));
        sine_.as<T>()[p * half + d] = T(std::sin(double(p) * frequency));
      }
    }
  });
  cosine_ = to_device(std::move(cosine_), device);
  sine_ = to_device(std::move(sine_), device);
}

void rotary_forward(const Context& ctx, const Tensor& y, const Tensor& x, const RotaryTable& table,
                    const Tensor& positions) {
  rotate_all(ctx, y, x, table, positions, 1, Accumulate::overwrite);
}

void rotary_backward(const Context& ctx, const Tensor& dx, const Tensor& dy,
                     const RotaryTable& table, const Tensor& positions, Accumulate accumulate) {
  rotate_all(ctx, dx, dy, table, positions, -1, accumulate);
}

void padding_positions(const Context& ctx, const Tensor& positions, const Tensor& tokens,
                       std::int32_t padding_token) {
  QF_EXPECTS(tokens.shape.rank == 2 && tokens.dtype == DType::i32 && tokens.contiguous());
  QF_EXPECTS(positions.shape == tokens.shape && positions.dtype == DType::i32);
  QF_EXPECTS(positions.contiguous());
  if (ctx.device.type == DeviceType::cuda)
    return cuda::padding_positions(ctx, positions, tokens, padding_token);
  const std::int32_t* token = tokens.as<std::int32_t>();
  std::int32_t* position = positions.as<std::int32_t>();
  for (std::int64_t b = 0; b < tokens.shape[0]; ++b) {
    std::int32_t last = padding_token;
    for (std::int64_t t = 0; t < tokens.shape[1]; ++t)
      *position++ = *token++ == padding_token ? padding_token : ++last;
  }
}

}  // namespace quietformer
