#include <climits>

#include "analysis/cuda/operations.h"
#include "analysis/quantization_range.h"
#include "analysis/value_key.h"
#include "core/cuda/reduce.cuh"

namespace quietformer::cuda {
namespace {

constexpr int kThreads = 256;

struct Smaller {
  __device__ std::int32_t operator()(std::int32_t a, std::int32_t b) const { return a < b ? a : b; }
};

/// A matrix with a row stride, element by element; a contiguous one is a single row.
struct Elements {
  std::int64_t columns, to_stride, from_stride;
};

template <class T>
__global__ void fake_quantize_kernel(T* to, const T* from, std::int64_t count, Elements e, T scale,
                                     T inverse, T zero, T first, T last) {
  for (std::int64_t i = first_index(); i < count; i += index_step()) {
    const std::int64_t row = i / e.columns, column = i % e.columns;
    // As on the CPU, comparisons that leave NaN alone.
    T q = rint(from[row * e.from_stride + column] * inverse) + zero;
    q = q < first ? first : q;
    q = q > last ? last : q;
    to[row * e.to_stride + column] = (q - zero) * scale;
  }
}

template <class T>
__global__ void observe_kernel(unsigned long long* bins, std::int32_t* extremes, const T* value,
                               std::int64_t count, std::int64_t columns, std::int64_t stride) {
  std::int32_t smallest = INT_MAX, largest = INT_MIN;
  for (std::int64_t i = first_index(); i < count; i += index_step()) {
    const std::int32_t bits =
        __float_as_int(static_cast<float>(value[i / columns * stride + i % columns]));
    const std::int32_t key = value_key(bits), bin = value_bin(bits);
    smallest = min(smallest, key), largest = max(largest, key);
    // Lanes with the same bin add once: zeros would queue up.
    const unsigned peers = __match_any_sync(__activemask(), bin);
    if (__ffs(static_cast<int>(peers)) - 1 == static_cast<int>(threadIdx.x % kWarp))
      atomicAdd(bins + bin, static_cast<unsigned long long>(__popc(peers)));
  }
  smallest = block_reduce<kThreads>(smallest, Smaller());
  largest = block_reduce<kThreads>(largest, Larger());
  if (threadIdx.x != 0) return;
  atomicMin(extremes, smallest);
  atomicMax(extremes + 1, largest);
}

}  // namespace

void fake_quantize(const Context& ctx, const Tensor& out, const Tensor& in, const Grid& grid) {
  expect_on_device(ctx, out, in);
  const CurrentDevice current(ctx.device);
  const Elements elements{out.shape[1], out.stride[0], in.stride[0]};
  dispatch_floating(out.dtype, [&]<class T>() {
    launch(ctx, "fake_quantize", shape_for(out.count(), kThreads), fake_quantize_kernel<T>,
           out.as<T>(), in.as<T>(), out.count(), elements, grid.scale, T(1) / T(grid.scale),
           grid.zero, grid.first, grid.last);
  });
}

void observe(const Context& ctx, const ValueCounts& counts, const Tensor& value) {
  expect_on_device(ctx, counts.bins, counts.extremes, value);
  const CurrentDevice current(ctx.device);
  dispatch_floating(value.dtype, [&]<class T>() {
    launch(ctx, "observe", shape_for(value.count(), kThreads), observe_kernel<T>,
           reinterpret_cast<unsigned long long*>(counts.bins.as<std::int64_t>()),
           counts.extremes.as<std::int32_t>(), value.as<T>(), value.count(), value.shape[1],
           value.stride[0]);
  });
}

}  // namespace quietformer::cuda
