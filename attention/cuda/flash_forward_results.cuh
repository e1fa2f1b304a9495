// How the rows of flash_forward.cuh leave: O and the statistics. See there.
#pragma once

#include "attention/cuda/flash_forward.cuh"

namespace quietformer::cuda {

template <class S, class N, class T, int dim, bool general>
__device__ __forceinline__ void FlashForward<S, N, T, dim, general>::finish() {
  float row_sum, scale[R];
  [[maybe_unused]] typename Terms::Partial own;
  if constexpr (N::row_normalised && !kTwoPasses) {
    load_parameters();
    own = terms_.merge();
    const float own_scale = N::scale(own, parameters_);
    row_sum = N::term_sum(own) * own_scale;
#pragma unroll
    for (int r = 0; r < R; ++r) scale[r] = __shfl_sync(0xFFFFFFFFu, own_scale, lane_ / 4 * 4 + r);
  } else {
    if constexpr (kTwoPasses)
      own = final_.own, row_sum = final_.weights.merge();
    else
      row_sum = terms_.merge();
#pragma unroll
    for (int r = 0; r < R; ++r) scale[r] = 1;
  }
  if constexpr (general)
#pragma unroll
    for (float& factor : scale) factor *= call_.options.kept;
  write_output(scale);
  const int i = warp_first_ + lane_ % 4 * 8 + lane_ / 4;
  if (lane_ % 4 >= R || i >= queries()) return;
  const std::int64_t at = (std::int64_t{sequence_.batch} * call_.heads + head_) * call_.queries +
                          sequence_.first_query + i;
  if (call_.row_sum != nullptr) call_.row_sum[at] = row_sum;
  if constexpr (N::row_normalised) write_row(at, own);
}

template <class S, class N, class T, int dim, bool general>
__device__ __forceinline__ void FlashForward<S, N, T, dim, general>::write_row(
    std::int64_t at, const typename Terms::Partial& partial) const {
  const Row row = N::finish(partial, parameters_);
  if (call_.row_state != nullptr) call_.row_state[at] = N::saved(row);
  if (call_.lse == nullptr && call_.lse_scores == nullptr && call_.sink_mass == nullptr) return;
  const RowOutputs<float> outputs = N::outputs(partial, row, parameters_);
  if (call_.lse != nullptr) call_.lse[at] = outputs.lse;
  if (call_.lse_scores != nullptr) call_.lse_scores[at] = outputs.lse_scores;
  if (call_.sink_mass != nullptr) call_.sink_mass[at] = outputs.sink_mass;
}

template <class S, class N, class T, int dim, bool general>
__device__ __forceinline__ void FlashForward<S, N, T, dim, general>::write_output(
    const float (&scale)[R]) {
  __syncwarp();
#pragma unroll
  for (int r = 0; r < R; ++r) {
    const int row = r * 8 + lane_ / 4;
#pragma unroll
    for (int n = 0; n < kChunks; ++n)
      store_shared(
          Shared::chunk_address(queries_, row, n) + static_cast<std::uint32_t>(lane_ % 4 * 4),
          T::pack(o_[r / 2][n][r % 2 * 2] * scale[r], o_[r / 2][n][r % 2 * 2 + 1] * scale[r]));
  }
  __syncwarp();
  Shared::template store<kWarpRows>(
      call_.o,
      call_.o.rows(sequence_.batch, head_) + (sequence_.first_query + warp_first_) * call_.o.row,
      queries_, queries() - warp_first_, call_.value_dim);
}

}  // namespace quietformer::cuda
