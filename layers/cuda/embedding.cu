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

constexpr int kScanThreads = 256;
constexpr int kScan = 4 * kScanThreads;  // tokens that a block looks at between two barriers
constexpr int kManyIds = 16;             // rows of d_weight of one block, for large vocabularies
constexpr std::int64_t kEnoughBlocks = 2048;

/// A block owns kIds rows of d_weight and kScanThreads of their columns, one per thread: it looks
/// for its ids among all tokens and adds the gradients where it finds them, in order. No two blocks
/// add to the same element, so nothing is atomic and the order is fixed. Several ids share the
/// search where there are blocks enough.
template <class T, int kIds>
__global__ void embedding_backward_kernel(Compute<T>* __restrict__ d_weight,
                                          const T* __restrict__ dy,
                                          const std::int32_t* __restrict__ tokens, Compute<T> scale,
                                          std::int64_t rows, std::int64_t columns,
                                          std::int64_t vocab) {
  constexpr int kWords = kScan / kWarp;
  static_assert(kWords == kWarp, "one word for each lane of the first warp");
  __shared__ Compute<T> sum[kIds][kScanThreads];
  __shared__ unsigned found[kWords];   // a bit per token of the stretch
  __shared__ int list[kScan], listed;  // the bits that are set, in order
  __shared__ int which[kScan];         // the id found there, less the block's first
  const std::int64_t first_id = std::int64_t{blockIdx.x} * kIds;
  const std::int64_t c = std::int64_t{blockIdx.y} * kScanThreads + threadIdx.x;
  for (int k = 0; k < kIds; ++k) sum[k][threadIdx.x] = 0;
  for (std::int64_t begin = 0; begin < rows; begin += kScan) {
    bool any = false;
#pragma unroll
    for (int k = 0; k < kScan / kScanThreads; ++k) {
      const int at = k * kScanThreads + static_cast<int>(threadIdx.x);
      const std::int64_t id = begin + at < rows ? tokens[begin + at] - first_id : -1;
      const unsigned bits = __ballot_sync(0xffffffffu, id >= 0 && id < kIds);
      which[at] = static_cast<int>(id);
      if (lane() == 0) found[at / kWarp] = bits;
      any = any || bits != 0;
    }
    if (!__syncthreads_or(any)) continue;
    if (threadIdx.x < kWords) {
      unsigned bits = found[threadIdx.x];
      int at = __popc(bits);
#pragma unroll
      for (int distance = 1; distance < kWarp; distance *= 2) {  // running sum over the lanes
        const int before = __shfl_up_sync(0xffffffffu, at, distance);
        if (lane() >= distance) at += before;
      }
      if (threadIdx.x == kWords - 1) listed = at;
      at -= __popc(bits);
      for (; bits != 0; bits &= bits - 1) list[at++] = lane() * kWarp + __ffs(bits) - 1;
    }
    __syncthreads();
    if (c < columns) {
      // Many loads at once: frequent tokens make long lists.
#pragma unroll 16
      for (int i = 0; i < listed; ++i) {
        const int at = list[i];
        sum[kIds == 1 ? 0 : which[at]][threadIdx.x] +=
            scale * widen(dy[(begin + at) * columns + c]);
      }
    }
    __syncthreads();  // the list is free again
  }
  if (c >= columns) return;
  for (int k = 0; k < kIds && first_id + k < vocab; ++k)
    d_weight[(first_id + k) * columns + c] += sum[k][threadIdx.x];
}

template <class T, int kIds>
void embedding_backward_by(const Context& ctx, const Tensor& d_weight, const Tensor& dy,
                           const Tensor& tokens, double scale) {
  const std::int64_t vocab = d_weight.shape[0], n = d_weight.shape[1];
  const dim3 grid(static_cast<unsigned>((vocab + kIds - 1) / kIds),
                  static_cast<unsigned>((n + kScanThreads - 1) / kScanThreads));
  launch(ctx, "embedding_backward", {grid, dim3(kScanThreads)}, embedding_backward_kernel<T, kIds>,
         d_weight.as<Compute<T>>(), dy.as<T>(), tokens.as<std::int32_t>(), scale, rows_of(dy), n,
         vocab);
}

template <class T>
__global__ void position_backward_kernel(Compute<T>* d_positions, const T* __restrict__ dy,
                                         std::int64_t rows, std::int64_t count) {
  for (std::int64_t i = first_index(); i < count; i += index_step()) {
    Compute<T> sum = 0;
#pragma unroll 8
    for (std::int64_t b = 0; b < rows; ++b) sum += widen(dy[b * count + i]);
    d_positions[i] += sum;
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

}  // namespace

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

void embedding_backward(const Context& ctx, const Tensor& d_weight, const Tensor& d_positions,
                        const Tensor& dy, const Tensor& tokens, double scale) {
  expect_on_device(ctx, d_weight, d_positions, dy, tokens);
  const std::int64_t rows = rows_of(dy), n = dy.shape[2], per_sequence = dy.shape[1] * n;
  if (rows == 0 || d_weight.count() == 0) return;
  const CurrentDevice current(ctx.device);
  dispatch_storage(dy.dtype, [&]<class T>() {
    if (d_weight.shape[0] >= kEnoughBlocks * kManyIds)
      embedding_backward_by<T, kManyIds>(ctx, d_weight, dy, tokens, scale);
    else
      embedding_backward_by<T, 1>(ctx, d_weight, dy, tokens, scale);
    if (d_positions)
      launch(ctx, "position_backward", shape_for(per_sequence), position_backward_kernel<T>,
             d_positions.as<Compute<T>>(), dy.as<T>(), dy.shape[0], per_sequence);
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
