#include "tests/attention/cuda/unfused.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <vector>

#include "core/cuda/launch.h"
#include "core/cuda/memory.h"
#include "core/random.h"

namespace quietformer::test {
namespace {

using cuda::check_cuda;
using cuda::CurrentDevice;
using cuda::first_index;
using cuda::index_step;
using cuda::launch;
using cuda::shape_for;

__device__ float rounded(float value, DType storage) {
  if (storage == DType::bf16) return __bfloat162float(__float2bfloat16_rn(value));
  if (storage == DType::f16) return __half2float(__float2half_rn(value));
  return value;
}

__global__ void normal_kernel(double* out, std::int64_t count, RandomKey key, float std,
                              DType storage) {
  for (std::int64_t i = first_index(); i < count; i += index_step()) {
    const Philox4 bits =
        philox(key, static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(i >> 32), 0, 0);
    // Box and Muller; (word + 1) / 2^32 is never 0.
    const float radius = sqrtf(-2 * logf((float(bits.word[0]) + 1) * 0x1p-32f));
    out[i] = rounded(std * radius * cospif(float(bits.word[1]) * 0x1p-31f), storage);
  }
}

__global__ void mask_kernel(std::uint8_t* out, std::int64_t count, RandomKey key,
                            std::uint32_t threshold) {
  for (std::int64_t i = first_index(); i < count; i += index_step())
    out[i] = philox(key, static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(i >> 32), 1, 0)
                 .word[0] < threshold;
}

/// A rank-4 tensor of any strides.
struct View {
  void* data;
  DType dtype;
  std::int64_t size[4], stride[4];
  explicit View(const Tensor& t) : data(t.data), dtype(t.dtype) {
    QF_EXPECTS(t.shape.rank == 4);
    for (int i = 0; i < 4; ++i) size[i] = t.shape[i], stride[i] = t.stride[i];
  }
  __device__ std::int64_t offset(std::int64_t i) const {
    std::int64_t at = 0;
    for (int dim = 3; dim >= 0; --dim) at += i % size[dim] * stride[dim], i /= size[dim];
    return at;
  }
  __device__ double get(std::int64_t i) const {
    const std::int64_t at = offset(i);
    if (dtype == DType::bf16) return __bfloat162float(static_cast<__nv_bfloat16*>(data)[at]);
    if (dtype == DType::f16) return __half2float(static_cast<__half*>(data)[at]);
    if (dtype == DType::f32) return static_cast<float*>(data)[at];
    return static_cast<double*>(data)[at];
  }
  __device__ void set(std::int64_t i, double value) const {
    const std::int64_t at = offset(i);
    if (dtype == DType::bf16)
      static_cast<__nv_bfloat16*>(data)[at] = __float2bfloat16_rn(float(value));
    if (dtype == DType::f16) static_cast<__half*>(data)[at] = __float2half_rn(float(value));
    if (dtype == DType::f32) static_cast<float*>(data)[at] = float(value);
  }
};

__global__ void narrow_kernel(View out, const double* in, std::int64_t count) {
  for (std::int64_t i = first_index(); i < count; i += index_step()) out.set(i, in[i]);
}

constexpr int kErrorThreads = 256, kErrorBlocks = 512;

__global__ void error_kernel(double* worst, View found, const double* exact, std::int64_t count) {
  __shared__ double part[kErrorThreads];
  double most = 0;
  for (std::int64_t i = first_index(); i < count; i += index_step()) {
    const double error = fabs(found.get(i) - exact[i]);
    most = error <= most ? most : (isnan(error) ? INFINITY : error);
  }
  part[threadIdx.x] = most;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (const double other : part) most = fmax(most, other);
  worst[blockIdx.x] = most;
}

// --- the computation ---

/// What an element (b, h, i, j) needs besides its product.
struct Elements {
  std::int64_t heads, group, queries, keys;
  const double *visible, *bias, *slopes;  // of the problem; null: absent
  std::int64_t bias_stride[4], slope_batch;
  std::int64_t threshold;  // piecewise: far from this distance on; otherwise beyond all
  bool dropout;
  RandomKey key;
  std::uint32_t first_sample, drop_below;
  float kept;
  DType storage;

  Elements(const Context& ctx, const AttentionProblem& p, DType type)
      : heads(p.heads()),
        group(p.heads() / p.kv_heads()),
        queries(p.q.shape[2]),
        keys(p.k.shape[2]),
        visible(p.weights.as<double>()),
        bias(p.bias.as<double>()),
        slopes(p.alibi_slopes.as<double>()),
        slope_batch(p.alibi_slopes.shape.rank == 2 ? p.heads() : 0),
        threshold(p.score == Score::piecewise ? p.threshold : INT64_MAX),
        dropout(ctx.mode == Mode::train && p.dropout.probability > 0),
        key(p.dropout.key),
        first_sample(p.dropout.first_sample),
        drop_below(dropout_threshold(p.dropout.probability)),
        kept(float(1 / (1 - p.dropout.probability))),
        storage(type) {
    for (int i = 0; i < 4; ++i)
      bias_stride[i] = bias != nullptr && p.bias.shape[i] > 1 ? p.bias.stride[i] : 0;
  }
  __device__ bool far(std::int64_t i, std::int64_t j) const {
    return i + keys - queries - j >= threshold;
  }
  /// Of head n of the batch: b = n / heads.
  __device__ float keep(std::int64_t n, std::int64_t i, std::int64_t j) const {
    if (!dropout) return 1;
    const auto word = [](std::int64_t value) { return static_cast<std::uint32_t>(value); };
    return dropout_keep(key, drop_below, first_sample + word(n / heads), word(n % heads), word(i),
                        word(j))
               ? kept
               : 0;
  }
};

/// out[n](i, j) = epilogue(n, i, j, sum over k of a(n, i, k) b(n, k, j)), i < rows, j < columns.
constexpr int kTile = 32;

template <class A, class B, class Store>
__global__ void product_kernel(std::int64_t rows, std::int64_t columns, std::int64_t inner, A a,
                               B b, Store store) {
  __shared__ float left[kTile][kTile + 1], right[kTile][kTile + 1];
  const std::int64_t n = blockIdx.z, x = threadIdx.x, y = threadIdx.y;
  const std::int64_t i = std::int64_t{blockIdx.y} * kTile + y,
                     j = std::int64_t{blockIdx.x} * kTile + x;
  float sum = 0;
  for (std::int64_t k = 0; k < inner; k += kTile) {
    left[y][x] = i < rows && k + x < inner ? a(n, i, k + x) : 0;
    right[y][x] = k + y < inner && j < columns ? b(n, k + y, j) : 0;
    __syncthreads();
    for (int t = 0; t < kTile; ++t) sum += left[y][t] * right[t][x];
    __syncthreads();
  }
  if (i < rows && j < columns) store(n, i, j, sum);
}

template <class A, class B, class Store>
void product(const Context& ctx, std::int64_t count, std::int64_t rows, std::int64_t columns,
             std::int64_t inner, const A& a, const B& b, const Store& store) {
  const auto blocks = [](std::int64_t size) {
    return static_cast<unsigned>((size + kTile - 1) / kTile);
  };
  if (count * rows * columns == 0) return;
  launch(ctx, "product",
         {dim3(blocks(columns), blocks(rows), static_cast<unsigned>(count)), dim3(kTile, kTile)},
         product_kernel<A, B, Store>, rows, columns, inner, a, b, store);
}

/// A (batch, rows, columns) array of f32 or f64; element (n, i, j), n divided by `share` first.
template <class T>
struct Matrices {
  T* data;
  std::int64_t rows, columns, heads = 1, group = 1;
  __device__ T& operator()(std::int64_t n, std::int64_t i, std::int64_t j) const {
    const std::int64_t kv = n / heads * (heads / group) + n % heads / group;
    return data[(kv * rows + i) * columns + j];
  }
};

/// Rows of q or k in f32; cosine's divided by their norms and rounded.
__global__ void operand_kernel(float* out, float* inverse, const double* in, std::int64_t rows,
                               std::int64_t dim, bool unit, DType storage) {
  for (std::int64_t r = first_index(); r < rows; r += index_step()) {
    double square = 0;
    for (std::int64_t c = 0; c < dim; ++c) square += in[r * dim + c] * in[r * dim + c];
    const double scale = unit ? 1 / fmax(sqrt(square), 1e-12) : 1;
    inverse[r] = float(scale);
    for (std::int64_t c = 0; c < dim; ++c) {
      const auto value = float(in[r * dim + c] * scale);
      out[r * dim + c] = unit ? rounded(value, storage) : value;
    }
  }
}

enum class Normalizer { softmax_n, sigmoid, clipped_softmax };

struct Head {
  const double* parameters[kMaxHeadParameters];
  double defaults[kMaxHeadParameters];
  __device__ float get(int k, std::int64_t head) const {
    return float(parameters[k] != nullptr ? parameters[k][head] : defaults[k]);
  }
};

/// Of clipped softmax: a weight before the clip.
__device__ float unclipped(float share, const Head& head, std::int64_t h, DType storage) {
  const float gamma = head.get(0, h), zeta = head.get(1, h);
  return rounded(rounded((zeta - gamma) * share, storage) + gamma, storage);
}

/// A warp per row: scores to weights, in place, and where weights are clipped to `shares`.
__global__ void weights_kernel(float* s, float* shares, std::int64_t rows, Elements e, Head head,
                               Normalizer normalizer) {
  const std::int64_t row = std::int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  if (row >= rows) return;
  const std::int64_t h = row / e.queries % e.heads;
  float* x = s + row * e.keys;
  if (normalizer == Normalizer::sigmoid) {
    const float bias = head.get(0, h);
    for (std::int64_t j = threadIdx.x; j < e.keys; j += 32)
      x[j] = x[j] > -INFINITY ? rounded(1 / (1 + expf(-(x[j] + bias))), e.storage) : 0;
    return;
  }
  float high = -INFINITY, sum = 0;
  for (std::int64_t j = threadIdx.x; j < e.keys; j += 32) high = fmaxf(high, x[j]);
  for (int d = 16; d > 0; d /= 2) high = fmaxf(high, __shfl_xor_sync(~0u, high, d));
  const float base = high > -INFINITY ? high : 0;
  for (std::int64_t j = threadIdx.x; j < e.keys; j += 32) sum += expf(x[j] - base);
  for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
  const bool clips = normalizer == Normalizer::clipped_softmax;
  if (!clips) sum += head.get(0, h) * expf(-base) + expf(head.get(1, h) - base);
  for (std::int64_t j = threadIdx.x; j < e.keys; j += 32) {
    x[j] = x[j] > -INFINITY ? rounded(expf(x[j] - base) / sum, e.storage) : 0;
    if (!clips) continue;
    shares[row * e.keys + j] = x[j];
    x[j] = fminf(fmaxf(unclipped(x[j], head, h, e.storage), 0), 1);
  }
}

/// A warp per row: dP to dS, in place. `weights`: shares, where weights are clipped.
__global__ void scores_backward_kernel(float* gradients, const float* weights, std::int64_t rows,
                                       Elements e, Head head, Normalizer normalizer) {
  const std::int64_t row = std::int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  if (row >= rows) return;
  float* d = gradients + row * e.keys;
  const float* w = weights + row * e.keys;
  float delta = 0;
  if (normalizer == Normalizer::clipped_softmax) {
    const std::int64_t h = row / e.queries % e.heads;
    const float gamma = head.get(0, h), zeta = head.get(1, h);
    for (std::int64_t j = threadIdx.x; j < e.keys; j += 32) {
      const float weight = unclipped(w[j], head, h, e.storage);
      d[j] *= weight >= 0 && (weight <= 1 || zeta == 1) ? zeta - gamma : 0;
    }
  }
  if (normalizer != Normalizer::sigmoid) {
    for (std::int64_t j = threadIdx.x; j < e.keys; j += 32) delta += w[j] * d[j];
    for (int t = 16; t > 0; t /= 2) delta += __shfl_xor_sync(~0u, delta, t);
  }
  for (std::int64_t j = threadIdx.x; j < e.keys; j += 32)
    d[j] = rounded(
        normalizer == Normalizer::sigmoid ? w[j] * (1 - w[j]) * d[j] : w[j] * (d[j] - delta),
        e.storage);
}

/// Gradients of cosine's unit rows become those of the rows: in place.
__global__ void unit_backward_kernel(float* d, const float* unit, const float* inverse,
                                     std::int64_t rows, std::int64_t dim, DType storage) {
  for (std::int64_t r = first_index(); r < rows; r += index_step()) {
    float dot = 0;
    for (std::int64_t c = 0; c < dim; ++c) dot += d[r * dim + c] * unit[r * dim + c];
    for (std::int64_t c = 0; c < dim; ++c)
      d[r * dim + c] = rounded(inverse[r] * (d[r * dim + c] - unit[r * dim + c] * dot), storage);
  }
}

cuda::LaunchShape warps(std::int64_t rows) {
  return {dim3(static_cast<unsigned>((rows + 7) / 8)), dim3(32, 8)};
}

Normalizer normalizer_of(const AttentionProblem& p) {
  if (p.normalizer == "clipped_softmax") return Normalizer::clipped_softmax;
  QF_EXPECTS(p.normalizer == "softmax_n" || p.normalizer == "sigmoid");
  return p.normalizer == "sigmoid" ? Normalizer::sigmoid : Normalizer::softmax_n;
}

Head head_of(const AttentionProblem& p) {
  Head head{};
  const auto& infos = find_normalizer(p.normalizer).parameters;
  for (std::size_t i = 0; i < infos.size(); ++i) {
    head.parameters[i] = p.head_parameters[i].as<double>();
    head.defaults[i] = infos[i].default_value;
  }
  return head;
}

int pairs_of(const AttentionProblem& p) {
  return p.score == Score::piecewise ? 2 : 1;
}

RandomKey key_of(std::uint32_t seed) {
  return stream_key(seed, RandomPurpose::generation, 0, 0);
}

/// What forward leaves for backward.
struct Work {
  OwnedTensor q[2], k[2], q_scale[2], k_scale[2];  // operands, and 1 / norm of cosine's rows
  OwnedTensor weights, shares, gradients;          // (B,H,L,S)
};

void forward(const Context& ctx, const AttentionProblem& p, DType type, Work& work, Unfused& out) {
  const auto f32 = [&](const Shape& shape) { return OwnedTensor(DType::f32, shape, ctx.device); };
  const Elements e(ctx, p, type);
  const std::int64_t count = p.q.shape[0] * e.heads, dim = p.q.shape[3], width = p.v.shape[3];
  const bool unit = p.score == Score::cosine;
  for (int pair = 0; pair < pairs_of(p); ++pair)
    for (const bool keys : {false, true}) {
      const Tensor& in = keys ? (pair == 0 ? p.k : p.k2) : (pair == 0 ? p.q : p.q2);
      OwnedTensor& operand = (keys ? work.k : work.q)[pair];
      OwnedTensor& inverse = (keys ? work.k_scale : work.q_scale)[pair];
      const std::int64_t rows = in.count() / dim;
      operand = f32(in.shape), inverse = f32({rows});
      launch(ctx, "operand", shape_for(rows), operand_kernel, operand.as<float>(),
             inverse.as<float>(), in.as<double>(), rows, dim, unit, type);
    }

  work.weights = f32({p.q.shape[0], e.heads, e.queries, e.keys});
  float* const s = work.weights.as<float>();
  const auto scale = float(p.scale);
  for (int pair = 0; pair < pairs_of(p); ++pair) {
    const Matrices<float> q{work.q[pair].as<float>(), e.queries, dim},
        k{work.k[pair].as<float>(), e.keys, dim, e.heads, e.group};
    product(
        ctx, count, e.queries, e.keys, dim, q,
        [=] __device__(std::int64_t n, std::int64_t c, std::int64_t j) { return k(n, j, c); },
        [=] __device__(std::int64_t n, std::int64_t i, std::int64_t j, float sum) {
          if (e.far(i, j) != (pair == 1)) return;
          const std::int64_t at = (n * e.queries + i) * e.keys + j;
          float score = rounded(rounded(sum, type) * scale, type);
          if (e.bias != nullptr)
            score = rounded(
                score +
                    float(e.bias[n / e.heads * e.bias_stride[0] + n % e.heads * e.bias_stride[1] +
                                 i * e.bias_stride[2] + j * e.bias_stride[3]]),
                type);
          if (e.slopes != nullptr)
            score = rounded(score - float(e.slopes[n / e.heads * e.slope_batch + n % e.heads]) *
                                        fabsf(float(i + e.keys - e.queries - j)),
                            type);
          s[at] = e.visible[at] > 0 ? score : -INFINITY;
        });
  }
  const Normalizer normalizer = normalizer_of(p);
  if (normalizer == Normalizer::clipped_softmax) work.shares = f32(work.weights.view().shape);
  const std::int64_t rows = count * e.queries;
  launch(ctx, "weights", warps(rows), weights_kernel, s, work.shares.as<float>(), rows, e,
         head_of(p), normalizer);

  out.o = f32(p.o.shape);
  const Matrices<double> v{p.v.as<double>(), e.keys, width, e.heads, e.group};
  const Matrices<float> w{s, e.queries, e.keys}, o{out.o.as<float>(), e.queries, width};
  product(
      ctx, count, e.queries, width, e.keys,
      [=] __device__(std::int64_t n, std::int64_t i, std::int64_t j) {
        return rounded(w(n, i, j) * e.keep(n, i, j), type);
      },
      [=] __device__(std::int64_t n, std::int64_t j, std::int64_t c) { return float(v(n, j, c)); },
      [=] __device__(std::int64_t n, std::int64_t i, std::int64_t c, float sum) {
        o(n, i, c) = rounded(sum, type);
      });
}

void backward(const Context& ctx, const AttentionProblem& p, DType type, Work& work, Unfused& out) {
  const auto f32 = [&](const Shape& shape) { return OwnedTensor(DType::f32, shape, ctx.device); };
  const Elements e(ctx, p, type);
  const std::int64_t batch = p.q.shape[0], count = batch * e.heads, kv_count = count / e.group,
                     dim = p.q.shape[3], width = p.v.shape[3];
  work.gradients = f32(work.weights.view().shape);
  const Matrices<float> w{work.weights.as<float>(), e.queries, e.keys},
      ds{work.gradients.as<float>(), e.queries, e.keys};
  const Matrices<double> v{p.v.as<double>(), e.keys, width, e.heads, e.group},
      d_out{p.do_.as<double>(), e.queries, width};
  product(
      ctx, count, e.queries, e.keys, width,
      [=] __device__(std::int64_t n, std::int64_t i, std::int64_t c) {
        return float(d_out(n, i, c));
      },
      [=] __device__(std::int64_t n, std::int64_t c, std::int64_t j) { return float(v(n, j, c)); },
      [=] __device__(std::int64_t n, std::int64_t i, std::int64_t j, float sum) {
        ds(n, i, j) = rounded(rounded(sum, type) * e.keep(n, i, j), type);
      });
  const std::int64_t rows = count * e.queries;
  launch(ctx, "scores_backward", warps(rows), scores_backward_kernel, work.gradients.as<float>(),
         (work.shares.view() ? work.shares : work.weights).as<float>(), rows, e, head_of(p),
         normalizer_of(p));

  // Sums over the queries of all heads that share a key head: inner index = head of group, query.
  out.dv = f32(p.v.shape);
  const Matrices<float> dv{out.dv.as<float>(), e.keys, width};
  product(
      ctx, kv_count, e.keys, width, e.group * e.queries,
      [=] __device__(std::int64_t n, std::int64_t j, std::int64_t i) {
        const std::int64_t head = n * e.group + i / e.queries;
        return rounded(w(head, i % e.queries, j) * e.keep(head, i % e.queries, j), type);
      },
      [=] __device__(std::int64_t n, std::int64_t i, std::int64_t c) {
        return float(d_out(n * e.group + i / e.queries, i % e.queries, c));
      },
      [=] __device__(std::int64_t n, std::int64_t j, std::int64_t c, float sum) {
        dv(n, j, c) = rounded(sum, type);
      });
  const auto scale = float(p.scale);
  for (int pair = 0; pair < pairs_of(p); ++pair) {
    out.dq[pair] = f32(p.q.shape), out.dk[pair] = f32(p.k.shape);
    const Matrices<float> q{work.q[pair].as<float>(), e.queries, dim},
        k{work.k[pair].as<float>(), e.keys, dim, e.heads, e.group},
        dq{out.dq[pair].as<float>(), e.queries, dim}, dk{out.dk[pair].as<float>(), e.keys, dim};
    const auto scaled = [=] __device__(std::int64_t n, std::int64_t i, std::int64_t j) {
      return e.far(i, j) == (pair == 1) ? rounded(ds(n, i, j) * scale, type) : 0.0f;
    };
    product(
        ctx, count, e.queries, dim, e.keys, scaled,
        [=] __device__(std::int64_t n, std::int64_t j, std::int64_t c) { return k(n, j, c); },
        [=] __device__(std::int64_t n, std::int64_t i, std::int64_t c, float sum) {
          dq(n, i, c) = rounded(sum, type);
        });
    product(
        ctx, kv_count, e.keys, dim, e.group * e.queries,
        [=] __device__(std::int64_t n, std::int64_t j, std::int64_t i) {
          return scaled(n * e.group + i / e.queries, i % e.queries, j);
        },
        [=] __device__(std::int64_t n, std::int64_t i, std::int64_t c) {
          return q(n * e.group + i / e.queries, i % e.queries, c);
        },
        [=] __device__(std::int64_t n, std::int64_t j, std::int64_t c, float sum) {
          dk(n, j, c) = rounded(sum, type);
        });
    if (p.score != Score::cosine) continue;
    const auto unit_backward = [&](const OwnedTensor& d, const OwnedTensor& unit,
                                   const OwnedTensor& inverse) {
      launch(ctx, "unit_backward", shape_for(inverse.view().count()), unit_backward_kernel,
             d.as<float>(), unit.as<float>(), inverse.as<float>(), inverse.view().count(), dim,
             type);
    };
    unit_backward(out.dq[pair], work.q[pair], work.q_scale[pair]);
    unit_backward(out.dk[pair], work.k[pair], work.k_scale[pair]);
  }
}

}  // namespace

void fill_normal(const Context& ctx, const Tensor& out, std::uint32_t seed, double std,
                 DType storage) {
  const CurrentDevice current(ctx.device);
  launch(ctx, "fill_normal", shape_for(out.count()), normal_kernel, out.as<double>(), out.count(),
         key_of(seed), float(std), storage);
}

void fill_mask(const Context& ctx, const Tensor& out, std::uint32_t seed, double rate) {
  const CurrentDevice current(ctx.device);
  launch(ctx, "fill_mask", shape_for(out.count()), mask_kernel, out.as<std::uint8_t>(), out.count(),
         key_of(seed), static_cast<std::uint32_t>(rate * 4294967295.0));
}

void narrow(const Context& ctx, const Tensor& out, const Tensor& in) {
  QF_EXPECTS(out.shape == in.shape && in.contiguous());
  const CurrentDevice current(ctx.device);
  launch(ctx, "narrow", shape_for(in.count()), narrow_kernel, View(out), in.as<double>(),
         in.count());
}

double max_error(const Context& ctx, const Tensor& found, const Tensor& exact) {
  QF_EXPECTS(found.shape == exact.shape && exact.contiguous());
  const CurrentDevice current(ctx.device);
  const OwnedTensor worst(DType::f64, {kErrorBlocks}, ctx.device), host(DType::f64, {kErrorBlocks});
  launch(ctx, "max_error", {dim3(kErrorBlocks), dim3(kErrorThreads)}, error_kernel,
         worst.as<double>(), View(found), exact.as<double>(), exact.count());
  cuda::copy(host, worst);
  double most = 0;
  for (int i = 0; i < kErrorBlocks; ++i) most = std::max(most, host.as<double>()[i]);
  return most;
}

Unfused unfused(const Context& ctx, const AttentionProblem& exact, DType storage) {
  QF_EXPECTS(!exact.packed() && exact.groups == 1 && exact.weights);
  const CurrentDevice current(ctx.device);
  Work work;
  Unfused result;
  forward(ctx, exact, storage, work, result);
  if (exact.do_) backward(ctx, exact, storage, work, result);
  return result;
}

}  // namespace quietformer::test
