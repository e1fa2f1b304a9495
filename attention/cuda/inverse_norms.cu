#include "attention/cuda/flash_call.h"
#include "attention/cuda/hopper/forward.h"
#include "attention/cuda/mma.cuh"
#include "attention/score/cosine.h"
#include "core/cuda/launch.h"

namespace quietformer::cuda {
namespace {

constexpr unsigned kWarps = 4, kLanes = 32;

/// Of `count` values, by a whole warp; every lane gets it.
template <class T>
__device__ float sum_of_squares(const std::uint16_t* x, int count) {
  float sum = 0;
  for (int i = threadIdx.x % kLanes; i < count; i += kLanes) {
    const float value = T::low(x[i]);
    sum += value * value;
  }
  for (unsigned step = kLanes / 2; step > 0; step /= 2)
    sum += __shfl_xor_sync(0xFFFFFFFFu, sum, step);
  return sum;
}

/// How inverse_norms_kernel cuts a head: a row is read by `lanes` neighbouring lanes, 8 features
/// each, and a lane has several rows under way.
template <int lanes>
struct NormTiles {
  static constexpr int kThreads = 256, kEach = 4, kStep = kThreads / lanes, kRows = kStep * kEach;
};

/// Chunk `chunk` of 8 features of a row; features from `dim` on are 0.
__device__ void load_chunk(std::uint32_t (&words)[4], const std::uint16_t* row, int chunk, int dim,
                           bool aligned) {
  for (std::uint32_t& word : words) word = 0;
  if (aligned && chunk * 8 < dim) {
    const uint4 loaded = *reinterpret_cast<const uint4*>(row + chunk * 8);
    words[0] = loaded.x, words[1] = loaded.y, words[2] = loaded.z, words[3] = loaded.w;
  }
  if (aligned) return;
#pragma unroll
  for (int i = 0; i < 8; ++i)
    if (chunk * 8 + i < dim)
      words[i / 2] |= static_cast<std::uint32_t>(row[chunk * 8 + i]) << (16 * (i % 2));
}

/// A block per tile of a head's rows. `placed`: heads lie norm_stride() apart.
template <class T, int lanes, bool placed>
__global__ void __launch_bounds__(NormTiles<lanes>::kThreads)
    inverse_norms_kernel(float* out, RowTensor x, int heads, int length, int dim) {
  using Tiles = NormTiles<lanes>;
  const int tiles = (length + Tiles::kRows - 1) / Tiles::kRows,
            head = static_cast<int>(blockIdx.x) / tiles,
            first = static_cast<int>(blockIdx.x) % tiles * Tiles::kRows +
                    static_cast<int>(threadIdx.x) / lanes,
            chunk = static_cast<int>(threadIdx.x) % lanes;
  const std::uint16_t* const rows = x.rows(head / heads, head % heads);
  std::uint32_t words[Tiles::kEach][4];
#pragma unroll
  for (int i = 0; i < Tiles::kEach; ++i) {
    const int row = min(first + i * Tiles::kStep, length - 1);
    load_chunk(words[i], rows + row * x.row, chunk, dim, x.aligned);
  }
#pragma unroll
  for (int i = 0; i < Tiles::kEach; ++i) {
    float sum = 0;
    for (const std::uint32_t word : words[i]) {
      sum += T::low(word) * T::low(word);
      sum += T::high(word) * T::high(word);
    }
#pragma unroll
    for (int step = lanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, step);
    const int row = first + i * Tiles::kStep;
    if (chunk == 0 && row < length)
      out[placed ? head * norm_stride(length) + row : std::int64_t{head} * length + row] =
          Cosine::inverse_norm(sum);
  }
}

template <class T, int lanes, bool placed>
void launch_inverse_norms(const Context& ctx, float* out, const Tensor& x) {
  using Tiles = NormTiles<lanes>;
  const std::int64_t tiles = (x.shape[2] + Tiles::kRows - 1) / Tiles::kRows;
  launch(ctx, "inverse norms",
         {dim3(static_cast<unsigned>(tiles * x.shape[0] * x.shape[1])), dim3(Tiles::kThreads)},
         inverse_norms_kernel<T, lanes, placed>, out, RowTensor(x), static_cast<int>(x.shape[1]),
         static_cast<int>(x.shape[2]), static_cast<int>(x.shape[3]));
}

template <class T, bool placed>
void inverse_norms_of(const Context& ctx, float* out, const Tensor& x) {
  const int dim = padded_dim(x.shape[3]);
  if (dim == 64) launch_inverse_norms<T, 8, placed>(ctx, out, x);
  if (dim == 128) launch_inverse_norms<T, 16, placed>(ctx, out, x);
  if (dim == 256) launch_inverse_norms<T, 32, placed>(ctx, out, x);
}

/// A warp per row, group after group.
template <class T>
__global__ void unit_groups_kernel(std::uint16_t* out, RowTensor x, std::int64_t rows, int heads,
                                   int length, int dim, int groups) {
  const std::int64_t row = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / kLanes;
  if (row >= rows) return;
  const std::int64_t head = row / length;
  const std::uint16_t* const from = x.rows(head / heads, head % heads) + row % length * x.row;
  const int size = dim / groups;
  for (int group = 0; group < groups; ++group) {
    const std::uint16_t* const slice = from + group * size;
    const float inverse = Cosine::inverse_norm(sum_of_squares<T>(slice, size));
    for (int i = threadIdx.x % kLanes; i < size; i += kLanes)
      out[row * dim + group * size + i] =
          static_cast<std::uint16_t>(T::pack(T::low(slice[i]) * inverse, 0));
  }
}

/// Rows of dx hold dy of y = x / |x| and become dx = (dy - y (y.dy)) / |x|, group after group. A
/// warp per row.
template <class T>
__global__ void unit_groups_backward_kernel(RowTensor dx, RowTensor x, std::int64_t rows, int heads,
                                            int length, int dim, int groups) {
  const std::int64_t row = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / kLanes;
  if (row >= rows) return;
  const std::int64_t head = row / length;
  const std::uint16_t* const from = x.rows(head / heads, head % heads) + row % length * x.row;
  std::uint16_t* const to = dx.rows(head / heads, head % heads) + row % length * dx.row;
  const int size = dim / groups;
  for (int group = 0; group < groups; ++group) {
    const std::uint16_t* const slice = from + group * size;
    std::uint16_t* const gradient = to + group * size;
    float product = 0;
    for (int i = threadIdx.x % kLanes; i < size; i += kLanes)
      product += T::low(slice[i]) * T::low(gradient[i]);
    for (unsigned step = kLanes / 2; step > 0; step /= 2)
      product += __shfl_xor_sync(0xFFFFFFFFu, product, step);
    const float squares = sum_of_squares<T>(slice, size), inverse = Cosine::inverse_norm(squares),
                projection = Cosine::projection(product * inverse, squares) * inverse;
    for (int i = threadIdx.x % kLanes; i < size; i += kLanes)
      gradient[i] = static_cast<std::uint16_t>(
          T::pack((T::low(gradient[i]) - T::low(slice[i]) * projection) * inverse, 0));
  }
}

LaunchShape shape_for_rows(std::int64_t rows) {
  return {dim3(static_cast<unsigned>((rows + kWarps - 1) / kWarps)), dim3(kWarps * kLanes)};
}

std::int64_t rows_of(const Tensor& x) {
  return x.shape[0] * x.shape[1] * x.shape[2];
}

}  // namespace

void inverse_norms(const Context& ctx, float* out, const Tensor& x) {
  const CurrentDevice current(ctx.device);
  if (rows_of(x) == 0) return;
  (x.dtype == DType::bf16 ? inverse_norms_of<Bf16, false> : inverse_norms_of<F16, false>)(ctx, out,
                                                                                          x);
}

void placed_inverse_norms(const Context& ctx, float* out, const Tensor& x) {
  const CurrentDevice current(ctx.device);
  if (rows_of(x) == 0) return;
  (x.dtype == DType::bf16 ? inverse_norms_of<Bf16, true> : inverse_norms_of<F16, true>)(ctx, out,
                                                                                        x);
}

void unit_groups(const Context& ctx, const Tensor& out, const Tensor& x, int groups) {
  const CurrentDevice current(ctx.device);
  const std::int64_t rows = rows_of(x);
  if (rows == 0) return;
  launch(ctx, "unit groups", shape_for_rows(rows),
         x.dtype == DType::bf16 ? unit_groups_kernel<Bf16> : unit_groups_kernel<F16>,
         static_cast<std::uint16_t*>(out.data), RowTensor(x), rows, static_cast<int>(x.shape[1]),
         static_cast<int>(x.shape[2]), static_cast<int>(x.shape[3]), groups);
}

void unit_groups_backward(const Context& ctx, const Tensor& dx, const Tensor& x, int groups) {
  const CurrentDevice current(ctx.device);
  const std::int64_t rows = rows_of(x);
  if (rows == 0 || !dx) return;
  launch(
      ctx, "unit groups backward", shape_for_rows(rows),
      x.dtype == DType::bf16 ? unit_groups_backward_kernel<Bf16> : unit_groups_backward_kernel<F16>,
      RowTensor(dx), RowTensor(x), rows, static_cast<int>(x.shape[1]), static_cast<int>(x.shape[2]),
      static_cast<int>(x.shape[3]), groups);
}

}  // namespace quietformer::cuda
