#include "layers/cuda/norm_rows.h"

#include "core/cuda/async_copy.cuh"
#include "layers/cuda/dropout.cuh"
#include "layers/cuda/rows.cuh"

namespace quietformer::cuda {
namespace {

constexpr int kRowWarps = 8;          // of a block
constexpr std::int64_t kParts = 264;  // most blocks of the backward pass, each leaves a part

/// kSize neighbouring parameters, in accesses of 16 bytes; `otherwise` where there are none.
template <int kSize, class C>
__device__ void load_parameters(C (&out)[kSize], const C* at, std::int64_t c, C otherwise) {
  if (at == nullptr) {
#pragma unroll
    for (int j = 0; j < kSize; ++j) out[j] = otherwise;
    return;
  }
  constexpr int kEach = Pack<C>::kSize;
  static_assert(kSize % kEach == 0);
#pragma unroll
  for (int part = 0; part < kSize / kEach; ++part) {
    const Pack<C> pack = *reinterpret_cast<const Pack<C>*>(at + c + part * kEach);
#pragma unroll
    for (int j = 0; j < kEach; ++j) out[part * kEach + j] = pack.value[j];
  }
}

template <class T>
struct Forward {
  using C = Compute<T>;
  T* y;
  const T *x, *branch;
  T* sum;
  C *mean, *rstd;
  const C *weight, *bias, *gain;
  C alpha, keep;  // keep: 1 / (1 - p)
  C eps;
  std::int64_t rows, n;
  DropoutStream dropout;
  bool centred, drops;
};

/// x becomes what the norm reads: x itself, or the sum with the branch as it is stored.
template <class T>
__device__ void join_pack(const Forward<T>& p, Pack<T>& x, std::int64_t row, std::int64_t c) {
  using C = Compute<T>;
  constexpr int kSize = Pack<T>::kSize;
  Wide<T> branch = load_pack(p.branch + row * p.n + c);
  if (p.drops) {
#pragma unroll
    for (int four = 0; four < kSize / 4; ++four) {
      const Philox4 bits = p.dropout.bits(row, c + 4 * four);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        C& value = branch.value[4 * four + j];
        // Rounded as dropout_apply() leaves it.
        value = bits.word[j] >= p.dropout.threshold ? widen(narrow<T>(value * p.keep)) : C(0);
      }
    }
  }
  C gain[kSize];
  load_parameters(gain, p.gain, c, C(1));
#pragma unroll
  for (int j = 0; j < kSize; ++j)
    x.value[j] = narrow<T>(p.alpha * widen(x.value[j]) + gain[j] * branch.value[j]);
  *reinterpret_cast<Pack<T>*>(p.sum + row * p.n + c) = x;
}

template <class T, int kPacks, bool kJoin>
__global__ void __launch_bounds__(kRowWarps* kWarp) norm_rows_kernel(Forward<T> p) {
  using C = Compute<T>;
  constexpr int kSize = Pack<T>::kSize;
  const std::int64_t row = row_of_warp(), n = p.n;
  if (row >= p.rows) return;
  Pack<T> x[kPacks];
  C sum = 0;
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    const std::int64_t c = (i * kWarp + lane()) * kSize;
    if (c < n) x[i] = *reinterpret_cast<const Pack<T>*>(p.x + row * n + c);
  }
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    const std::int64_t c = (i * kWarp + lane()) * kSize;
    if (c >= n) continue;
    if constexpr (kJoin) join_pack(p, x[i], row, c);
#pragma unroll
    for (int j = 0; j < kSize; ++j) sum += widen(x[i].value[j]);
  }
  const C mean = p.centred ? warp_reduce(sum, Plus()) / C(n) : C(0);
  C squares = 0;
#pragma unroll
  for (int i = 0; i < kPacks; ++i)
    if ((i * kWarp + lane()) * kSize < n) {
#pragma unroll
      for (int j = 0; j < kSize; ++j) {
        const C centred = widen(x[i].value[j]) - mean;
        squares += centred * centred;
      }
    }
  const C rstd = C(1) / sqrt(warp_reduce(squares, Plus()) / C(n) + p.eps);
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    const std::int64_t c = (i * kWarp + lane()) * kSize;
    if (c >= n) continue;
    C weight[kSize], bias[kSize];
    load_parameters(weight, p.weight, c, C(1));
    load_parameters(bias, p.bias, c, C(0));
    Wide<T> y;
#pragma unroll
    for (int j = 0; j < kSize; ++j)
      y.value[j] = (widen(x[i].value[j]) - mean) * rstd * weight[j] + bias[j];
    store_pack(p.y + row * n + c, y);
  }
  if (lane() != 0) return;
  if (p.mean != nullptr) p.mean[row] = mean;
  if (p.rstd != nullptr) p.rstd[row] = rstd;
}

template <class T>
struct Backward {
  using C = Compute<T>;
  T* dx;
  const T *dy, *x;
  const C *mean, *rstd, *weight;
  C* parts;  // (blocks, 2, n): weight, bias
  std::int64_t rows, n;
  bool centred, add;
};

/// A row of all that the backward pass reads, as a warp holds it.
template <class T, int kPacks>
struct BackwardRow {
  Pack<T> dy[kPacks], x[kPacks], old[kPacks];
};

/// Rows on their way to shared memory while a warp works on the one before: two of them, each lane
/// with its own packs.
template <class T, int kPacks>
struct RowsAhead {
  Pack<T> packs[2][3][kPacks][kWarp];

  __device__ void ask(const Backward<T>& p, std::int64_t row, int stage) {
    if (row < p.rows) {
#pragma unroll
      for (int i = 0; i < kPacks; ++i) {
        const std::int64_t c = (i * kWarp + lane()) * Pack<T>::kSize;
        if (c >= p.n) continue;
        copy_16_bytes(&packs[stage][0][i][lane()], p.dy + row * p.n + c);
        copy_16_bytes(&packs[stage][1][i][lane()], p.x + row * p.n + c);
        if (p.add) copy_16_bytes(&packs[stage][2][i][lane()], p.dx + row * p.n + c);
      }
    }
    end_copies();
  }
  __device__ void take(BackwardRow<T, kPacks>& row, int stage) const {
    wait_for_copies<1>();
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      row.dy[i] = packs[stage][0][i][lane()];
      row.x[i] = packs[stage][1][i][lane()];
      row.old[i] = packs[stage][2][i][lane()];
    }
  }
};

template <class T, int kPacks>
__device__ void load_row(BackwardRow<T, kPacks>& row, const Backward<T>& p, std::int64_t at) {
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    const std::int64_t c = (i * kWarp + lane()) * Pack<T>::kSize;
    if (c >= p.n) continue;
    row.dy[i] = *reinterpret_cast<const Pack<T>*>(p.dy + at * p.n + c);
    row.x[i] = *reinterpret_cast<const Pack<T>*>(p.x + at * p.n + c);
    if (p.add) row.old[i] = *reinterpret_cast<const Pack<T>*>(p.dx + at * p.n + c);
  }
}

/// The blocks' warps share the rows; each keeps its sums for the parameters in registers and the
/// block leaves their sum in `parts`. dx may alias dy. kAhead: with the next row under way.
template <class T, int kPacks, bool kAhead>
__global__ void __launch_bounds__(kRowWarps* kWarp, kSixteenBit<T> ? 2 : 1)
    norm_rows_backward_kernel(Backward<T> p) {
  using C = Compute<T>;
  using Ahead = RowsAhead<T, kPacks>;
  extern __shared__ __align__(16) unsigned char memory[];
  [[maybe_unused]] Ahead& ahead = reinterpret_cast<Ahead*>(memory)[threadIdx.x / kWarp];
  [[maybe_unused]] int stage = 0;
  constexpr int kSize = Pack<T>::kSize;
  const std::int64_t n = p.n;
  C d_weight[kPacks * kSize] = {}, d_bias[kPacks * kSize] = {};
  const std::int64_t step = gridDim.x * kRowWarps;
  if constexpr (kAhead) ahead.ask(p, row_of_warp(), stage);
  for (std::int64_t row = row_of_warp(); row < p.rows; row += step) {
    const C mean = p.centred ? p.mean[row] : C(0), rstd = p.rstd[row];
    BackwardRow<T, kPacks> in;
    if constexpr (kAhead) {
      ahead.ask(p, row + step, 1 - stage);
      ahead.take(in, stage);
      stage = 1 - stage;
    } else {
      load_row(in, p, row);
    }
    C along = 0, shift = 0;
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      const std::int64_t c = (i * kWarp + lane()) * kSize;
      if (c >= n) continue;
      C weight[kSize];
      load_parameters(weight, p.weight, c, C(1));
#pragma unroll
      for (int j = 0; j < kSize; ++j) {
        const C d = widen(in.dy[i].value[j]), unit = (widen(in.x[i].value[j]) - mean) * rstd;
        d_weight[i * kSize + j] += d * unit;
        d_bias[i * kSize + j] += d;
        const C g = d * weight[j];
        along += g * unit;
        shift += g;
      }
    }
    along = warp_reduce(along, Plus()) / C(n);
    shift = p.centred ? warp_reduce(shift, Plus()) / C(n) : C(0);
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      const std::int64_t c = (i * kWarp + lane()) * kSize;
      if (c >= n) continue;
      C weight[kSize];
      load_parameters(weight, p.weight, c, C(1));
      Wide<T> dx;
#pragma unroll
      for (int j = 0; j < kSize; ++j) {
        const C d = widen(in.dy[i].value[j]), unit = (widen(in.x[i].value[j]) - mean) * rstd;
        const C g = d * weight[j];
        const C value = rstd * (g - shift - unit * along);
        dx.value[j] = p.add ? widen(in.old[i].value[j]) + value : value;
      }
      store_pack(p.dx + row * n + c, dx);
    }
  }
  if (p.parts == nullptr) return;
  constexpr int kColumns = kPacks * kSize * kWarp;
  __syncthreads();  // rows are done with
  auto& part = *reinterpret_cast<C(*)[kRowWarps][kColumns]>(memory);
  const int warp = threadIdx.x / kWarp;
#pragma unroll
  for (int s = 0; s < 2; ++s) {
#pragma unroll
    for (int k = 0; k < kPacks * kSize; ++k)
      part[warp][k * kWarp + lane()] = s == 0 ? d_weight[k] : d_bias[k];
    __syncthreads();
    for (int i = threadIdx.x; i < kColumns; i += kRowWarps * kWarp) {
      C total = part[0][i];
#pragma unroll
      for (int w = 1; w < kRowWarps; ++w) total += part[w][i];
      const int k = i / kWarp, at = i % kWarp;
      const std::int64_t c = (k / kSize * kWarp + at) * kSize + k % kSize;
      if (c < n) p.parts[(std::int64_t{blockIdx.x} * 2 + s) * n + c] = total;
    }
    __syncthreads();  // part is free again
  }
}

template <class T>
bool whole_rows(const Tensor& t) {
  return !t || (t.contiguous() && starts_pack(t.as<T>()));
}

/// body.operator()<T, packs a lane holds>(); false for rows of other lengths and types.
template <class Body>
bool dispatch_rows(DType dtype, std::int64_t n, const Body& body) {
  const auto by_size = [&]<class T, int kEach>() {
    constexpr int kWide = Pack<T>::kSize * kWarp * kEach;
    if (n % Pack<T>::kSize != 0 || n > 4 * kWide || n <= 0) return false;
    switch ((n + kWide - 1) / kWide) {
      case 1:
        return body.template operator()<T, kEach>();
      case 2:
        return body.template operator()<T, 2 * kEach>();
      case 3:
        return body.template operator()<T, 3 * kEach>();
      default:
        return body.template operator()<T, 4 * kEach>();
    }
  };
  if (dtype == DType::bf16) return by_size.template operator()<__nv_bfloat16, 1>();
  if (dtype == DType::f16) return by_size.template operator()<__half, 1>();
  if (dtype == DType::f32) return by_size.template operator()<float, 2>();
  return false;
}

}  // namespace

bool norm_rows_forward(const Context& ctx, NormKind kind, const Tensor& y,
                       const NormStatistics& saved, const Join& join, const Tensor& weight,
                       const Tensor& bias, double eps) {
  if (kind == NormKind::l2) return false;
  const bool joins = join.branch.data != nullptr, drops = joins && active(ctx, join.dropout);
  return dispatch_rows(y.dtype, columns_of(y), [&]<class T, int kPacks>() {
    using C = Compute<T>;
    if (!whole_rows<T>(y) || !whole_rows<T>(join.x) || !whole_rows<T>(join.branch) ||
        !whole_rows<T>(join.sum) || !whole_rows<C>(weight) || !whole_rows<C>(bias) ||
        !whole_rows<C>(join.gain))
      return false;
    if (drops && Pack<T>::kSize % 4 != 0) return false;
    Forward<T> p{};
    p.y = y.as<T>(), p.x = join.x.as<T>(), p.branch = join.branch.as<T>();
    p.sum = join.sum.as<T>();
    p.centred = kind == NormKind::layernorm;
    p.mean = p.centred ? saved.mean.as<C>() : nullptr, p.rstd = saved.rstd.as<C>();
    p.weight = weight.as<C>(), p.bias = bias.as<C>(), p.gain = join.gain.as<C>();
    p.alpha = C(join.alpha), p.eps = C(eps);
    p.rows = rows_of(y), p.n = columns_of(y);
    p.drops = drops;
    if (drops) {
      p.keep = C(1 / (1 - join.dropout.probability));
      p.dropout = DropoutStream(ctx, join.dropout, join.branch.shape[1]);
    }
    if (joins)
      launch(ctx, "join_norm_forward", warp_per_row(p.rows), norm_rows_kernel<T, kPacks, true>, p);
    else
      launch(ctx, "norm_forward", warp_per_row(p.rows), norm_rows_kernel<T, kPacks, false>, p);
    return true;
  });
}

bool norm_rows_backward(const Context& ctx, NormKind kind, const Tensor& dx, const Tensor& d_weight,
                        const Tensor& d_bias, const Tensor& dy, const Tensor& x,
                        const NormStatistics& saved, const Tensor& weight, Accumulate accumulate) {
  if (kind == NormKind::l2) return false;
  return dispatch_rows(dx.dtype, columns_of(dx), [&]<class T, int kPacks>() {
    using C = Compute<T>;
    if (!whole_rows<T>(dx) || !whole_rows<T>(dy) || !whole_rows<T>(x) || !whole_rows<C>(weight))
      return false;
    const bool parameters = d_weight || d_bias;
    Backward<T> p{};
    p.dx = dx.as<T>(), p.dy = dy.as<T>(), p.x = x.as<T>();
    p.centred = kind == NormKind::layernorm;
    p.mean = saved.mean.as<C>(), p.rstd = saved.rstd.as<C>(), p.weight = weight.as<C>();
    p.parts = parameters ? static_cast<C*>(workspace(ctx.device)) : nullptr;
    p.rows = rows_of(dx), p.n = columns_of(dx);
    p.add = accumulate == Accumulate::add;
    const std::int64_t blocks = std::min((p.rows + kRowWarps - 1) / kRowWarps, kParts);
    const auto run = [&](auto* kernel, std::int64_t shared) {
      allow_shared(kernel, shared, "norm_backward", ctx.device);
      launch(ctx, "norm_backward",
             {dim3(static_cast<unsigned>(blocks)), dim3(kRowWarps * kWarp),
              static_cast<std::size_t>(shared)},
             kernel, p);
    };
    constexpr std::int64_t kPart = kRowWarps * kPacks * Pack<T>::kSize * kWarp * sizeof(C),
                           kRows = kRowWarps * sizeof(RowsAhead<T, kPacks>);
    if (kSixteenBit<T> && kRows <= shared_limit(ctx.device))
      run(norm_rows_backward_kernel<T, kPacks, true>, std::max(kPart, kRows));
    else
      run(norm_rows_backward_kernel<T, kPacks, false>, kPart);
    if (parameters)
      add_parts<C, 2>(ctx, "norm_backward_parameters", {d_weight.as<C>(), d_bias.as<C>()}, p.parts,
                      blocks, p.n);
    return true;
  });
}

}  // namespace quietformer::cuda
