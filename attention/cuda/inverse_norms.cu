#include "attention/cuda/flash_call.h"
#include "attention/cuda/mma.cuh"
#include "attention/score/cosine.h"
#include "core/cuda/launch.h"

namespace quietformer::cuda {
namespace {

constexpr unsigned kWarps = 4, kLanes = 32;

/// A warp per row.
template <class T>
__global__ void inverse_norms_kernel(float* out, RowTensor k, std::int64_t rows, int heads,
                                     int length, int dim) {
  const std::int64_t row = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / kLanes;
  if (row >= rows) return;
  const std::int64_t head = row / length;
  const std::uint16_t* const x = k.rows(head / heads, head % heads) + row % length * k.row;
  float sum = 0;
  for (int i = threadIdx.x % kLanes; i < dim; i += kLanes) {
    const float value = T::low(x[i]);
    sum += value * value;
  }
  for (unsigned step = kLanes / 2; step > 0; step /= 2)
    sum += __shfl_xor_sync(0xFFFFFFFFu, sum, step);
  if (threadIdx.x % kLanes == 0) out[row] = Cosine::inverse_norm(sum);
}

}  // namespace

void inverse_norms(const Context& ctx, float* out, const Tensor& k) {
  const std::int64_t rows = k.shape[0] * k.shape[1] * k.shape[2];
  if (rows == 0) return;
  const LaunchShape shape{dim3(static_cast<unsigned>((rows + kWarps - 1) / kWarps)),
                          dim3(kWarps * kLanes)};
  launch(ctx, "inverse norms", shape,
         k.dtype == DType::bf16 ? inverse_norms_kernel<Bf16> : inverse_norms_kernel<F16>, out,
         RowTensor(k), rows, static_cast<int>(k.shape[1]), static_cast<int>(k.shape[2]),
         static_cast<int>(k.shape[3]));
}

}  // namespace quietformer::cuda
