// Gates of attention heads: (rows, H D) is one row of D numbers for every token and head, and a
// group of lanes of a warp takes each.
#include <bit>

#include "core/math.h"
#include "layers/cuda/operations.h"
#include "layers/cuda/rows.cuh"

namespace quietformer::cuda {
namespace {

constexpr unsigned kThreads = 256;

/// How tokens' heads fall onto lanes: a block takes neighbouring rows of one head.
struct Units {
  std::int64_t rows;
  unsigned heads;
  int dim;
  int shift;  // 2^shift lanes to a unit, at most a warp
  __host__ __device__ int lanes() const { return 1 << shift; }
  __host__ __device__ unsigned rows_per_block() const { return kThreads >> shift; }
};

/// What this thread's group of lanes works on.
struct Unit {
  std::int64_t row, index;  // index: row H + head
  int head, lane;
  bool present;  // absent ones only take part in sums

  __device__ explicit Unit(const Units& units)
      : row(std::int64_t{blockIdx.x / units.heads} * units.rows_per_block() +
            (threadIdx.x >> units.shift)),
        head(static_cast<int>(blockIdx.x % units.heads)),
        lane(static_cast<int>(threadIdx.x) & (units.lanes() - 1)),
        present(row < units.rows) {
    index = row * units.heads + head;
  }
};

/// Over the lanes of a unit; all threads of the warp call, and every lane gets its unit's sum.
template <class C>
__device__ C unit_sum(C value, int lanes) {
  for (int distance = lanes / 2; distance > 0; distance /= 2)
    value += __shfl_xor_sync(0xffffffffu, value, distance);
  return value;
}

/// kStep neighbours from memory of T or of its compute type.
template <class C, int kStep, class T>
__device__ void load(C (&out)[kStep], const T* at) {
  if constexpr (kStep == 1) {
    out[0] = widen(*at);
  } else {
#pragma unroll
    for (int j = 0; j < kStep; j += Pack<T>::kSize) {
      const Wide<T> wide = load_pack(at + j);
#pragma unroll
      for (int i = 0; i < Pack<T>::kSize; ++i) out[j + i] = wide.value[i];
    }
  }
}

template <class T, class C, int kStep>
__device__ void store(T* at, const C (&value)[kStep]) {
  if constexpr (kStep == 1) {
    *at = narrow<T>(value[0]);
  } else {
    Wide<T> wide;
#pragma unroll
    for (int j = 0; j < kStep; ++j) wide.value[j] = value[j];
    store_pack(at, wide);
  }
}

/// Nothing is __restrict__: y may alias context.
template <class T, int kStep>
__global__ void gate_forward_kernel(T* y, Compute<T>* gate, const T* x, const T* context,
                                    const Compute<T>* weight, const Compute<T>* bias, Units units) {
  using C = Compute<T>;
  const Unit unit(units);
  const std::int64_t first = unit.index * units.dim;
  const int stride = units.lanes() * kStep;
  C sum = 0, a[kStep], b[kStep];
  if (unit.present) {
    for (int d = unit.lane * kStep; d < units.dim; d += stride) {
      load(a, x + first + d);
      load(b, weight + unit.head * units.dim + d);
#pragma unroll
      for (int j = 0; j < kStep; ++j) sum += a[j] * b[j];
    }
  }
  sum = unit_sum(sum, units.lanes());
  if (!unit.present) return;
  const C g = math::sigmoid(sum + bias[unit.head]);
  if (unit.lane == 0) gate[unit.index] = g;
  for (int d = unit.lane * kStep; d < units.dim; d += stride) {
    load(a, context + first + d);
#pragma unroll
    for (int j = 0; j < kStep; ++j) a[j] *= g;
    store(y + first + d, a);
  }
}

template <class T>
struct Backward {
  using C = Compute<T>;
  C* d_logit;
  T *d_context, *dx;  // d_context may be dy
  const T *dy, *context;
  const C *gate, *weight;
};

template <class T, int kStep>
__global__ void gate_backward_kernel(Backward<T> p, Units units) {
  using C = Compute<T>;
  const Unit unit(units);
  const std::int64_t first = unit.index * units.dim;
  const int stride = units.lanes() * kStep;
  C sum = 0, a[kStep], b[kStep];
  if (unit.present) {
    for (int d = unit.lane * kStep; d < units.dim; d += stride) {
      load(a, p.dy + first + d);
      load(b, p.context + first + d);
#pragma unroll
      for (int j = 0; j < kStep; ++j) sum += a[j] * b[j];
    }
  }
  sum = unit_sum(sum, units.lanes());
  if (!unit.present) return;
  const C g = p.gate[unit.index], d_logit = g * (C(1) - g) * sum;
  if (unit.lane == 0) p.d_logit[unit.index] = d_logit;
  for (int d = unit.lane * kStep; d < units.dim; d += stride) {
    load(a, p.dy + first + d);
    load(b, p.weight + unit.head * units.dim + d);
#pragma unroll
    for (int j = 0; j < kStep; ++j) a[j] *= g, b[j] *= d_logit;
    store(p.d_context + first + d, a);
    store(p.dx + first + d, b);
  }
}

template <class T, int kWide>
struct WeightGradient {
  using C = Compute<T>;
  const C* d_logit;
  const T* x;
  std::int64_t heads, dim;
  __device__ void operator()(C (&sum)[1][kWide], std::int64_t r, std::int64_t c) const {
    C value[kWide];
    load(value, x + r * heads * dim + c);
    const C d = d_logit[r * heads + c / dim];
#pragma unroll
    for (int j = 0; j < kWide; ++j) sum[0][j] += d * value[j];
  }
};

template <class C>
struct BiasGradient {
  const C* d_logit;
  std::int64_t heads;
  __device__ void operator()(C (&sum)[1][1], std::int64_t r, std::int64_t h) const {
    sum[0][0] += d_logit[r * heads + h];
  }
};

/// body.operator()<T, kStep>() for tensors of one type: whole packs where every head's row starts
/// with one, in `weight` too where it is there.
template <class Body, class... Tensors>
void dispatch_step(std::int64_t dim, const Tensor& weight, const Body& body, const Tensor& first,
                   const Tensors&... others) {
  const auto start = [](const Tensor& t) { return static_cast<const char*>(t.data); };
  const bool aligned = starts_pack(start(weight), start(first), start(others)...);
  dispatch_storage(first.dtype, [&]<class T>() {
    if (aligned && dim % Pack<T>::kSize == 0)
      body.template operator()<T, Pack<T>::kSize>();
    else
      body.template operator()<T, 1>();
  });
}

Units units_of(const Tensor& weight, std::int64_t rows, int step) {
  const std::int64_t heads = weight.shape[0], dim = weight.shape[1];
  const auto steps = static_cast<unsigned>(std::min<std::int64_t>(dim / step, kWarp));
  return {rows, static_cast<unsigned>(heads), static_cast<int>(dim),
          static_cast<int>(std::bit_width(steps - 1))};
}

LaunchShape shape_of(const Units& units) {
  const std::int64_t blocks = (units.rows + units.rows_per_block() - 1) / units.rows_per_block();
  return {dim3(static_cast<unsigned>(blocks * units.heads)), dim3(kThreads)};
}

}  // namespace

void attention_gate_forward(const Context& ctx, const Tensor& y, const Tensor& gate,
                            const AttentionGateInputs& in) {
  expect_on_device(ctx, y, gate, in.x, in.context, in.weight, in.bias);
  if (y.count() == 0) return;
  const CurrentDevice current(ctx.device);
  dispatch_step(
      in.weight.shape[1], in.weight,
      [&]<class T, int kStep>() {
        using C = Compute<T>;
        const Units units = units_of(in.weight, rows_of(y), kStep);
        launch(ctx, "attention_gate_forward", shape_of(units), gate_forward_kernel<T, kStep>,
               y.as<T>(), gate.as<C>(), in.x.as<T>(), in.context.as<T>(), in.weight.as<C>(),
               in.bias.as<C>(), units);
      },
      y, in.x, in.context);
}

void attention_gate_backward_input(const Context& ctx, const AttentionGateGradients& out,
                                   const Tensor& dy, const Tensor& gate,
                                   const AttentionGateInputs& in) {
  expect_on_device(ctx, out.d_logit, out.d_context, out.dx, dy, gate);
  expect_on_device(ctx, in.context, in.weight);
  if (dy.count() == 0) return;
  const CurrentDevice current(ctx.device);
  dispatch_step(
      in.weight.shape[1], in.weight,
      [&]<class T, int kStep>() {
        using C = Compute<T>;
        const Units units = units_of(in.weight, rows_of(dy), kStep);
        const Backward<T> p{out.d_logit.as<C>(), out.d_context.as<T>(), out.dx.as<T>(),
                            dy.as<T>(),          in.context.as<T>(),    gate.as<C>(),
                            in.weight.as<C>()};
        launch(ctx, "attention_gate_backward", shape_of(units), gate_backward_kernel<T, kStep>, p,
               units);
      },
      dy, out.d_context, out.dx, in.context);
}

void attention_gate_backward_parameters(const Context& ctx, const Tensor& d_weight,
                                        const Tensor& d_bias, const Tensor& d_logit,
                                        const Tensor& x) {
  expect_on_device(ctx, d_weight, d_bias, d_logit, x);
  const CurrentDevice current(ctx.device);
  const std::int64_t rows = rows_of(x), heads = d_weight.shape[0], dim = d_weight.shape[1];
  dispatch_step(
      dim, {},
      [&]<class T, int kStep>() {
        using C = Compute<T>;
        add_column_sums<C, 1, kStep>(
            ctx, "attention_gate_backward_weight", {d_weight.as<C>()}, rows, heads * dim,
            WeightGradient<T, kStep>{d_logit.as<C>(), x.as<T>(), heads, dim});
        add_column_sums<C, 1, 1>(ctx, "attention_gate_backward_bias", {d_bias.as<C>()}, rows, heads,
                                 BiasGradient<C>{d_logit.as<C>(), heads});
      },
      x);
}

}  // namespace quietformer::cuda
