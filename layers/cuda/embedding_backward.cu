// The gradient of an embedding without atomics: tokens are sorted by id (a stable sort, so in the
// order of their places), the sorted list is cut into pieces of one length, and a block adds the
// gradients of a piece. A run of one id inside a piece is added to its row of d_weight at once;
// what a cut leaves of a run waits in the workspace and is added in the order of pieces.
#include <cub/device/device_radix_sort.cuh>

#include "layers/cuda/operations.h"
#include "layers/cuda/rows.cuh"

namespace quietformer::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kBatch = 8;  // rows that a thread asks memory for at once

template <class T>
struct Pieces {
  using C = Compute<T>;
  C* d_weight;
  const T* dy;
  const std::int32_t *ids, *places;  // sorted; an id of `vocab` is none
  C* parts;                          // (pieces, 2, columns): runs cut on the left, on the right
  C scale;
  std::int32_t rows, length, vocab;
  std::int64_t columns;

  __device__ std::int32_t begin(std::int32_t piece) const { return piece * length; }
  __device__ std::int32_t end(std::int32_t piece) const { return min(rows, begin(piece) + length); }
  __device__ bool cut_before(std::int32_t at) const {
    return at > 0 && at < rows && ids[at - 1] == ids[at];
  }
};

__global__ void keys_kernel(std::int32_t* ids, std::int32_t* places,
                            const std::int32_t* __restrict__ tokens, std::int32_t rows,
                            std::int32_t vocab) {
  const auto i = static_cast<std::int32_t>(first_index());
  if (i >= rows) return;
  const std::int32_t id = tokens[i];
  ids[i] = id >= 0 && id < vocab ? id : vocab;
  places[i] = i;
}

template <class C, int kWide>
__device__ void add_to(C* out, const C (&sum)[kWide], C scale) {
#pragma unroll
  for (int j = 0; j < kWide; ++j) out[j] += scale * sum[j];
}

template <class T, int kWide>
__device__ Wide<T, kWide> load_row(const T* at) {
  if constexpr (kWide == 1)
    return {{widen(*at)}};
  else
    return load_pack(at);
}

template <class T, int kWide>
__global__ void __launch_bounds__(kThreads) pieces_kernel(Pieces<T> p) {
  using C = Compute<T>;
  const auto piece = static_cast<std::int32_t>(blockIdx.x);
  const std::int64_t c = (std::int64_t{blockIdx.y} * kThreads + threadIdx.x) * kWide;
  if (c >= p.columns) return;
  const std::int32_t begin = p.begin(piece), end = p.end(piece);
  C sum[kWide] = {};
  std::int32_t id = p.ids[begin];
  bool cut_left = p.cut_before(begin);
  const auto finish = [&](bool cut_right) {
    if (id >= p.vocab) return;
    if (!cut_left && !cut_right) return add_to(p.d_weight + id * p.columns + c, sum, p.scale);
    C* part = p.parts + (std::int64_t{piece} * 2 + (cut_left ? 0 : 1)) * p.columns + c;
#pragma unroll
    for (int j = 0; j < kWide; ++j) part[j] = sum[j];
  };
  for (std::int32_t i = begin; i < end; i += kBatch) {
    std::int32_t ids[kBatch];
    Wide<T, kWide> rows[kBatch];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      ids[b] = i + b < end ? p.ids[i + b] : p.vocab;
      rows[b] = {};
      if (ids[b] < p.vocab)
        rows[b] = load_row<T, kWide>(p.dy + std::int64_t{p.places[i + b]} * p.columns + c);
    }
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      if (i + b >= end) break;
      if (ids[b] != id) {
        finish(false);
        id = ids[b], cut_left = false;
#pragma unroll
        for (int j = 0; j < kWide; ++j) sum[j] = 0;
      }
#pragma unroll
      for (int j = 0; j < kWide; ++j) sum[j] += rows[b].value[j];
    }
  }
  finish(p.cut_before(end));
}

/// A block per piece: the run that starts in it and is cut at its end, if there is one.
template <class T>
__global__ void __launch_bounds__(kThreads) cut_runs_kernel(Pieces<T> p) {
  using C = Compute<T>;
  const auto piece = static_cast<std::int32_t>(blockIdx.x);
  const std::int32_t begin = p.begin(piece), end = p.end(piece), id = p.ids[end - 1];
  if (id >= p.vocab || !p.cut_before(end) || (p.ids[begin] == id && p.cut_before(begin))) return;
  std::int32_t inside = end, outside = p.rows;  // of the run: the last place known, the first not
  while (inside + 1 < outside) {
    const std::int32_t middle = inside + (outside - inside) / 2;
    (p.ids[middle] == id ? inside : outside) = middle;
  }
  const std::int32_t last = inside / p.length;
  const std::int64_t c = std::int64_t{blockIdx.y} * kThreads + threadIdx.x;
  if (c >= p.columns) return;
  C sum = p.parts[(std::int64_t{piece} * 2 + 1) * p.columns + c];
#pragma unroll 8
  for (std::int32_t q = piece + 1; q <= last; ++q)
    sum += p.parts[std::int64_t{q} * 2 * p.columns + c];
  p.d_weight[id * p.columns + c] += p.scale * sum;
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

/// Parts of the workspace, one after another.
class Cutter {
 public:
  explicit Cutter(void* memory) : at_(static_cast<char*>(memory)), end_(at_ + kWorkspaceBytes) {}
  template <class V>
  V* take(std::int64_t count) {
    auto* const part = reinterpret_cast<V*>(at_);
    at_ += (count * static_cast<std::int64_t>(sizeof(V)) + 255) / 256 * 256;
    if (at_ > end_)
      throw RunError("embedding_backward: a batch of tokens too large for the GPU's workspace");
    return part;
  }
  std::int64_t left() const { return end_ - at_; }

 private:
  char *at_, *end_;
};

template <class T>
void add_rows_of_tokens(const Context& ctx, const Tensor& d_weight, const Tensor& dy,
                        const Tensor& tokens, double scale) {
  using C = Compute<T>;
  constexpr std::int32_t kShortest = 32;
  Cutter cutter(workspace(ctx.device));
  Pieces<T> p{};
  p.d_weight = d_weight.as<C>(), p.dy = dy.as<T>(), p.scale = C(scale);
  QF_EXPECTS(rows_of(dy) < (std::int64_t{1} << 30));
  p.rows = static_cast<std::int32_t>(rows_of(dy));
  p.vocab = static_cast<std::int32_t>(d_weight.shape[0]), p.columns = columns_of(dy);
  std::int32_t* ids[2] = {cutter.take<std::int32_t>(p.rows), cutter.take<std::int32_t>(p.rows)};
  std::int32_t* places[2] = {cutter.take<std::int32_t>(p.rows), cutter.take<std::int32_t>(p.rows)};
  launch(ctx, "embedding_backward", shape_for(p.rows, 256, 1u << 30), keys_kernel, ids[0],
         places[0], tokens.as<std::int32_t>(), p.rows, p.vocab);
  int bits = 1;
  while (p.vocab >> bits != 0) ++bits;
  std::size_t bytes = 0;
  const auto sort = [&](void* scratch) {
    check_cuda(cub::DeviceRadixSort::SortPairs(scratch, bytes, ids[0], ids[1], places[0], places[1],
                                               p.rows, 0, bits, ctx.stream),
               "embedding_backward", ctx.device);
  };
  sort(nullptr);
  sort(cutter.take<char>(static_cast<std::int64_t>(bytes)));
  p.ids = ids[1], p.places = places[1];
  // Pieces as short as the workspace allows: many blocks, and short waits for frequent tokens.
  p.length = kShortest;
  const auto pieces = [&] { return (p.rows + p.length - 1) / p.length; };
  while (pieces() * 2 * p.columns * static_cast<std::int64_t>(sizeof(C)) > cutter.left() &&
         p.length < p.rows)
    p.length *= 2;
  p.parts = cutter.take<C>(pieces() * 2 * p.columns);
  const auto grid = [&](std::int64_t wide) {
    return dim3(static_cast<unsigned>(pieces()),
                static_cast<unsigned>((p.columns + kThreads * wide - 1) / (kThreads * wide)));
  };
  constexpr int kWide = Pack<T>::kSize;
  if (p.columns % kWide == 0 && starts_pack(p.dy))
    launch(ctx, "embedding_backward", {grid(kWide), dim3(kThreads)}, pieces_kernel<T, kWide>, p);
  else
    launch(ctx, "embedding_backward", {grid(1), dim3(kThreads)}, pieces_kernel<T, 1>, p);
  launch(ctx, "embedding_backward", {grid(1), dim3(kThreads)}, cut_runs_kernel<T>, p);
}

}  // namespace

void embedding_backward(const Context& ctx, const Tensor& d_weight, const Tensor& d_positions,
                        const Tensor& dy, const Tensor& tokens, double scale) {
  expect_on_device(ctx, d_weight, d_positions, dy, tokens);
  const std::int64_t per_sequence = dy.shape[1] * dy.shape[2];
  if (rows_of(dy) == 0 || d_weight.count() == 0) return;
  const CurrentDevice current(ctx.device);
  dispatch_storage(dy.dtype, [&]<class T>() {
    add_rows_of_tokens<T>(ctx, d_weight, dy, tokens, scale);
    if (d_positions)
      launch(ctx, "position_backward", shape_for(per_sequence), position_backward_kernel<T>,
             d_positions.as<Compute<T>>(), dy.as<T>(), dy.shape[0], per_sequence);
  });
}

}  // namespace quietformer::cuda
