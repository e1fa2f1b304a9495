#include "core/math.h"
#include "layers/cuda/operations.h"
#include "layers/cuda/rows.cuh"

namespace quietformer::cuda {
namespace {

template <class T>
struct Lookup {
  T* y;
  const std::int32_t* tokens;
  const T *weight, *positions;  // positions may be null
  Compute<T> scale;
  std::int64_t rows, length, columns, vocab;
  bool whole;  // rows fall into packs
};

template <class T>
__global__ void embedding_forward_kernel(Lookup<T> p) {
  using C = Compute<T>;
  const std::int64_t row = row_of_warp();
  if (row >= p.rows) return;
  const std::int64_t id = p.tokens[row], n = p.columns;
  const bool known = id >= 0 && id < p.vocab;
  const T* weight = p.weight + (known ? id * n : 0);
  const T* positions = p.positions != nullptr ? p.positions + row % p.length * n : nullptr;
  constexpr int kSize = Pack<T>::kSize;
  if (p.whole) {
    for (std::int64_t c = lane() * kSize; c < n; c += kWarp * kSize) {
      Wide<T> value = load_pack(weight + c);
      const Wide<T> add = positions != nullptr ? load_pack(positions + c) : Wide<T>{};
#pragma unroll
      for (int j = 0; j < kSize; ++j)
        value.value[j] = known ? p.scale * value.value[j] + add.value[j] : math::kNaN<C>;
      store_pack(p.y + row * n + c, value);
    }
    return;
  }
  for (std::int64_t c = lane(); c < n; c += kWarp) {
    const C value =
        p.scale * widen(weight[c]) + (positions != nullptr ? widen(positions[c]) : C(0));
    p.y[row * n + c] = narrow<T>(known ? value : math::kNaN<C>);
  }
}

template <class T>
struct Rotation {
  T* y;
  const T* x;
  const Compute<T>*cosine, *sine;  // (entries, half)
  const std::int32_t* positions;
  Compute<T> direction;
  std::int64_t rows, length, heads, half, entries;
  std::int64_t y_stride[3], x_stride[3];  // batch, token, head
  bool add;
};

/// A warp per token: the table's row serves all its heads.
template <class T>
__global__ void rotate_kernel(Rotation<T> p) {
  using C = Compute<T>;
  const std::int64_t row = row_of_warp();
  if (row >= p.rows) return;
  const std::int64_t b = row / p.length, t = row % p.length, position = p.positions[t];
  const bool known = position >= 0 && position < p.entries;
  const std::int64_t at = known ? position * p.half : 0;
  T* const y = p.y + b * p.y_stride[0] + t * p.y_stride[1];
  const T* const x = p.x + b * p.x_stride[0] + t * p.x_stride[1];
  for (std::int64_t d = lane(); d < p.half; d += kWarp) {
    const C cosine = known ? p.cosine[at + d] : math::kNaN<C>;
    const C sine = p.direction * p.sine[at + d];
    for (std::int64_t h = 0; h < p.heads; ++h) {
      const T* in = x + h * p.x_stride[2] + d;
      T* out = y + h * p.y_stride[2] + d;
      const C first = widen(in[0]), second = widen(in[p.half]);
      const C low = first * cosine - second * sine, high = second * cosine + first * sine;
      out[0] = narrow<T>(p.add ? widen(out[0]) + low : low);
      out[p.half] = narrow<T>(p.add ? widen(out[p.half]) + high : high);
    }
  }
}

/// A warp per sequence, which walks along it a warp's width at a time.
__global__ void padding_positions_kernel(std::int32_t* __restrict__ positions,
                                         const std::int32_t* __restrict__ tokens,
                                         std::int64_t batch, std::int64_t length,
                                         std::int32_t padding_token) {
  const std::int64_t row = row_of_warp();
  if (row >= batch) return;
  std::int32_t last = padding_token;
  for (std::int64_t first = 0; first < length; first += kWarp) {
    const std::int64_t t = first + lane(), at = row * length + t;
    const bool counts = t < length && tokens[at] != padding_token;
    const unsigned all = __ballot_sync(~0u, counts);
    const unsigned before = all & (~0u >> (kWarp - 1 - lane()));  // this lane included
    if (t < length) positions[at] = counts ? last + __popc(before) : padding_token;
    last += __popc(all);
  }
}

}  // namespace

void padding_positions(const Context& ctx, const Tensor& positions, const Tensor& tokens,
                       std::int32_t padding_token) {
  expect_on_device(ctx, positions, tokens);
  const std::int64_t batch = tokens.shape[0];
  if (tokens.count() == 0) return;
  const CurrentDevice current(ctx.device);
  launch(ctx, "padding_positions", warp_per_row(batch), padding_positions_kernel,
         positions.as<std::int32_t>(), tokens.as<std::int32_t>(), batch, tokens.shape[1],
         padding_token);
}

void embedding_forward(const Context& ctx, const Tensor& y, const Tensor& tokens,
                       const Tensor& weight, const Tensor& positions, double scale) {
  expect_on_device(ctx, y, tokens, weight, positions);
  const std::int64_t rows = rows_of(y);
  if (rows == 0) return;
  const CurrentDevice current(ctx.device);
  dispatch_storage(y.dtype, [&]<class T>() {
    const Lookup<T> p{y.as<T>(),
                      tokens.as<std::int32_t>(),
                      weight.as<T>(),
                      positions.as<T>(),
                      Compute<T>(scale),
                      rows,
                      y.shape[1],
                      y.shape[2],
                      weight.shape[0],
                      y.shape[2] % Pack<T>::kSize == 0 &&
                          starts_pack(y.as<T>(), weight.as<T>(), positions.as<T>())};
    launch(ctx, "embedding_forward", warp_per_row(rows), embedding_forward_kernel<T>, p);
  });
}

void rotate(const Context& ctx, const Tensor& y, const Tensor& x, const RotaryTable& table,
            const Tensor& positions, int direction, Accumulate accumulate) {
  expect_on_device(ctx, y, x, table.cosine(), table.sine(), positions);
  const std::int64_t rows = x.shape[0] * x.shape[1];
  if (rows == 0) return;
  const CurrentDevice current(ctx.device);
  dispatch_storage(x.dtype, [&]<class T>() {
    const Rotation<T> p{y.as<T>(),
                        x.as<T>(),
                        table.cosine().as<Compute<T>>(),
                        table.sine().as<Compute<T>>(),
                        positions.as<std::int32_t>(),
                        Compute<T>(direction),
                        rows,
                        x.shape[1],
                        x.shape[2],
                        x.shape[3] / 2,
                        table.cosine().shape[0],
                        {y.stride[0], y.stride[1], y.stride[2]},
                        {x.stride[0], x.stride[1], x.stride[2]},
                        accumulate == Accumulate::add};
    launch(ctx, "rotary", warp_per_row(rows), rotate_kernel<T>, p);
  });
}

}  // namespace quietformer::cuda
