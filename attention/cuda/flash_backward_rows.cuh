// What happens once per row in the backward of `flash` on a GPU: delta before the tiles, dQ from
// the sums after them, and the sums of parameter gradients. See flash_backward.cuh.
#pragma once

#include "attention/cuda/flash_backward_call.h"
#include "attention/cuda/head_parameters.cuh"
#include "attention/cuda/options.cuh"
#include "attention/cuda/row_sums.cuh"
#include "attention/normalizer/normalizer.h"
#include "attention/score/score.h"

namespace quietformer::cuda {

inline constexpr int kPassThreads = 256;

/// Per row delta = do.o, and the row gradients of a block's rows. Eight lanes per row.
template <class N, class T>
__global__ void __launch_bounds__(kPassThreads)
    backward_deltas_kernel(const __grid_constant__ FlashBackwardCall call) {
  static_assert(kPassThreads / 8 == kDeltaRows);
  constexpr int kSums = kParameters<N>;
  const int block = static_cast<int>(blockIdx.x) % call.row_blocks,
            head = static_cast<int>(blockIdx.x) / call.row_blocks % call.heads,
            batch = static_cast<int>(blockIdx.x) / call.row_blocks / call.heads;
  const int lane = static_cast<int>(threadIdx.x) % 8,
            i = block * kDeltaRows + static_cast<int>(threadIdx.x) / 8;
  const bool present = i < call.queries;
  const std::int64_t row = (std::int64_t{batch} * call.heads + head) * call.queries + i;

  float delta = 0;
  if (present && N::delta_rule == DeltaRule::output_dot) {
    const std::uint16_t *const o = call.o.rows(batch, head) + i * call.o.row,
                               *const d_out = call.d_out.rows(batch, head) + i * call.d_out.row;
    for (int chunk = lane; chunk * 8 < call.value_dim; chunk += 8) {
      std::uint32_t x[4], y[4];
      read_chunk(x, call.o, o, chunk, call.value_dim);
      read_chunk(y, call.d_out, d_out, chunk, call.value_dim);
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        delta += T::low(x[w]) * T::low(y[w]);
        delta += T::high(x[w]) * T::high(y[w]);
      }
    }
  }
#pragma unroll
  for (int distance = 1; distance < 8; distance *= 2)
    delta += __shfl_xor_sync(0xFFFFFFFFu, delta, distance);
  if (present && lane == 0) call.delta[row] = delta;

  if constexpr (N::has_row_gradients) {
    if (!call.wants_parameters()) return;
    float sums[kSums] = {};
    if (present && lane == 0)
      N::row_gradients(sums, delta, N::restore(call.row_state[row]),
                       load_parameters<N, float>(call, head));
    __shared__ float rows[kSums][kDeltaRows];
    if (lane == 0)
      for (int k = 0; k < kSums; ++k) rows[k][threadIdx.x / 8] = sums[k];
    __syncthreads();
    if (threadIdx.x >= kSums) return;
    float sum = 0;
    for (int r = 0; r < kDeltaRows; ++r) sum += rows[threadIdx.x][r];
    call.row_partials[std::int64_t{blockIdx.x} * kMaxHeadParameters + threadIdx.x] = sum;
  }
}

/// The sum over the threads of a block, for thread 0.
__device__ inline float sum_of_block(float value) {
  __shared__ float warps[kPassThreads / 32];
  for (int distance = 16; distance > 0; distance /= 2)
    value += __shfl_xor_sync(0xFFFFFFFFu, value, distance);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
  __syncthreads();
  if (threadIdx.x != 0) return 0;
  for (int w = 1; w < kPassThreads / 32; ++w) value += warps[w];
  return value;
}

/// dQ of a tile of queries and its part of dscale. A thread has the same 8 features of two rows.
template <class S, class T, int dim>
__global__ void __launch_bounds__(kPassThreads)
    backward_queries_kernel(const __grid_constant__ FlashBackwardCall call, int pair) {
  constexpr bool kUnit = S::operands == Operands::unit_groups;
  constexpr int kQueries = BackwardTiles::of(dim).queries, kChunks = dim / 8;
  const int slot = static_cast<int>(blockIdx.x) % call.query_slots,
            head = static_cast<int>(blockIdx.x) / call.query_slots % call.heads,
            batch = static_cast<int>(blockIdx.x) / call.query_slots / call.heads;
  const FlashSequence sequence =
      FlashSequence::of<true>(call.options, false, kQueries, slot, batch, call.queries, call.keys);
  const int first = sequence.tile * kQueries;
  if (first >= sequence.queries) return;
  const RowTensor &q = call.q[pair], &dq = call.dq[pair];
  const std::uint16_t* const q_rows =
      q.rows(sequence.batch, head) + (sequence.first_query + first) * q.row;
  std::uint16_t* const dq_rows =
      dq.data == nullptr ? nullptr
                         : dq.rows(sequence.batch, head) + (sequence.first_query + first) * dq.row;
  const float* const sums = call.query_sums[pair] + std::int64_t{blockIdx.x} * kQueries * dim;
  float d_scale = 0;
  for (int at = static_cast<int>(threadIdx.x); at < kQueries / 2 * kChunks; at += kPassThreads) {
    const int chunk = at % kChunks, g = at / kChunks % 8, m = at / kChunks / 8;
    float x[2][8];
    read_from_block(x, sums + (m / 2 * (dim / 32) + chunk / 4) * kSumBlock, m % 2, chunk % 4, g);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = m * 16 + r * 8 + g;
      const bool present = first + row < sequence.queries;
      float square = 0, product = 0;  // q.q, q.dq before the scale
      std::uint32_t words[4] = {};
      if (kUnit || call.d_scale != nullptr) {
        if (present) read_chunk(words, q, q_rows + row * q.row, chunk, call.dim);
#pragma unroll
        for (int f = 0; f < 8; ++f) {
          const float y = f % 2 == 0 ? T::low(words[f / 2]) : T::high(words[f / 2]);
          square += y * y;
          product += y * x[r][f];
        }
#pragma unroll
        for (int distance = 1; distance < kChunks; distance *= 2) {
          square += __shfl_xor_sync(0xFFFFFFFFu, square, distance);
          product += __shfl_xor_sync(0xFFFFFFFFu, product, distance);
        }
      }
      float inverse = 1;
      if constexpr (kUnit) {
        inverse = S::inverse_norm(square);
        const float projection = S::projection(call.scale * product * inverse, square) * inverse;
#pragma unroll
        for (int f = 0; f < 8; ++f) {
          const float y = f % 2 == 0 ? T::low(words[f / 2]) : T::high(words[f / 2]);
          x[r][f] = (call.scale * x[r][f] - y * projection) * inverse;
        }
      } else {
#pragma unroll
        for (float& value : x[r]) value *= call.scale;
      }
      if (!present) continue;
      if (chunk == 0) d_scale += product * inverse;
      if (dq_rows == nullptr) continue;
#pragma unroll
      for (int w = 0; w < 4; ++w) words[w] = T::pack(x[r][2 * w], x[r][2 * w + 1]);
      write_chunk(dq, dq_rows + row * dq.row, chunk, call.dim, words);
    }
  }
  if (call.d_scale == nullptr) return;
  d_scale = sum_of_block(d_scale);
  if (threadIdx.x == 0) call.scale_partials[std::int64_t{pair} * gridDim.x + blockIdx.x] = d_scale;
}

/// Gradients of the parameters of head blockIdx.x, and of scale in one block more: their parts in
/// an order that sizes alone decide.
template <class S, class N>
__global__ void __launch_bounds__(kPassThreads)
    backward_sums_kernel(const __grid_constant__ FlashBackwardCall call, int teams) {
  const int head = static_cast<int>(blockIdx.x);
  if (head == call.heads) {
    if (call.d_scale == nullptr) return;
    float sum = 0;
    const std::int64_t count = std::int64_t{S::pairs} * call.batch * call.heads * call.query_slots;
    for (std::int64_t i = threadIdx.x; i < count; i += kPassThreads) sum += call.scale_partials[i];
    sum = sum_of_block(sum);
    if (threadIdx.x == 0) *call.d_scale = sum;
    return;
  }
  for (int k = 0; k < kParameters<N>; ++k) {
    if (call.d_parameters[k] == nullptr) continue;
    float sum = 0;
    for (int b = 0; b < call.batch; ++b) {
      const std::int64_t at = std::int64_t{b} * call.heads + head;
      const auto add = [&](const float* partials, int count) {
        for (int i = static_cast<int>(threadIdx.x); i < count; i += kPassThreads)
          sum += partials[(at * count + i) * kMaxHeadParameters + k];
      };
      if constexpr (N::has_row_gradients) add(call.row_partials, call.row_blocks);
      if constexpr (N::has_element_gradients)
        add(call.element_partials, call.key_slots * teams * S::pairs);
    }
    sum = sum_of_block(sum);
    if (threadIdx.x == 0) call.d_parameters[k][head] = sum;
    __syncthreads();
  }
}

/// dbias from the copies of the teams, in order.
static __global__ void backward_bias_kernel(float* dbias, const float* copies, int count,
                                            std::int64_t size) {
  const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= size) return;
  float sum = 0;
  for (int copy = 0; copy < count; ++copy) sum += copies[copy * size + i];
  dbias[i] = sum;
}

}  // namespace quietformer::cuda
