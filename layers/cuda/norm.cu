// Rows of any length and stride: a warp per row, which looks at it several times, the first from
// memory and the others from the first-level cache. norm_rows.cu takes what is shorter and aligned.
#include "layers/cuda/norm_rows.h"
#include "layers/cuda/operations.h"
#include "layers/cuda/rows.cuh"

namespace quietformer::cuda {
namespace {

/// Sum of term(i) over [0, n), known to all lanes.
template <class C, class Term>
__device__ C row_sum(std::int64_t n, const Term& term) {
  C sum = 0;
  for (std::int64_t i = lane(); i < n; i += kWarp) sum += term(i);
  return warp_reduce(sum, Plus());
}

template <class T>
struct Forward {
  using C = Compute<T>;
  Rows<T> y, x;
  C *mean, *rstd;  // null where nothing is saved
  const C *weight, *bias;
  std::int64_t rows, n;
  C eps;
};

template <class T, NormKind kKind>
__global__ void norm_forward_kernel(Forward<T> p) {
  using C = Compute<T>;
  const std::int64_t row = row_of_warp(), n = p.n;
  if (row >= p.rows) return;
  const T* x = p.x[row];
  T* y = p.y[row];
  C mean = 0;
  if constexpr (kKind == NormKind::layernorm)
    mean = row_sum<C>(n, [=](std::int64_t i) { return widen(x[i]); }) / C(n);
  // The second look at a row does not cancel, unlike mean(x^2) - mean^2.
  const C squares = row_sum<C>(n, [=](std::int64_t i) {
    const C centred = widen(x[i]) - mean;
    return centred * centred;
  });
  const C rstd = kKind == NormKind::l2 ? C(1) / max(sqrt(squares), p.eps)
                                       : C(1) / sqrt(squares / C(n) + p.eps);
  for (std::int64_t i = lane(); i < n; i += kWarp) {
    C value = (widen(x[i]) - mean) * rstd;
    if (p.weight != nullptr) value *= p.weight[i];
    if (p.bias != nullptr) value += p.bias[i];
    y[i] = narrow<T>(value);
  }
  if (lane() != 0) return;
  if (kKind == NormKind::layernorm && p.mean != nullptr) p.mean[row] = mean;
  if (p.rstd != nullptr) p.rstd[row] = rstd;
}

template <class T>
struct BackwardInput {
  using C = Compute<T>;
  Rows<T> dx, dy, x;
  const C *mean, *rstd, *weight;
  std::int64_t rows, n;
  C eps;
  bool add;
};

/// dx = rstd (g - shift - xhat * slope), g = dy * weight.
template <class T, NormKind kKind>
__global__ void norm_backward_kernel(BackwardInput<T> p) {
  using C = Compute<T>;
  const std::int64_t row = row_of_warp(), n = p.n;
  if (row >= p.rows) return;
  const T *dy = p.dy[row], *x = p.x[row];
  const C* weight = p.weight;
  const C mean = kKind == NormKind::layernorm ? p.mean[row] : C(0), rstd = p.rstd[row];
  const auto g = [=](std::int64_t i) {
    return weight != nullptr ? widen(dy[i]) * weight[i] : widen(dy[i]);
  };
  C slope = row_sum<C>(n, [=](std::int64_t i) { return g(i) * ((widen(x[i]) - mean) * rstd); });
  if constexpr (kKind == NormKind::l2)
    slope = rstd * p.eps < C(1) ? slope : C(0);  // below eps the norm divides by a constant
  else
    slope /= C(n);
  C shift = 0;
  if constexpr (kKind == NormKind::layernorm) shift = row_sum<C>(n, g) / C(n);
  T* dx = p.dx[row];
  for (std::int64_t i = lane(); i < n; i += kWarp) {
    const C value = rstd * (g(i) - shift - (widen(x[i]) - mean) * rstd * slope);
    dx[i] = narrow<T>(p.add ? widen(dx[i]) + value : value);
  }
}

/// Sums for the weight and for the bias.
template <class T>
struct ParameterGradients {
  using C = Compute<T>;
  Rows<T> dy, x;
  const C *mean, *rstd;  // no mean but layernorm's; neither where only the bias is wanted
  __device__ void operator()(C (&sum)[2][1], std::int64_t r, std::int64_t c) const {
    const C d = widen(dy[r][c]);
    if (rstd != nullptr)
      sum[0][0] += d * ((widen(x[r][c]) - (mean != nullptr ? mean[r] : C(0))) * rstd[r]);
    sum[1][0] += d;
  }
};

/// body.operator()<T, kind>().
template <class Body>
void dispatch_norm(DType dtype, NormKind kind, const Body& body) {
  dispatch_storage(dtype, [&]<class T>() {
    switch (kind) {
      case NormKind::layernorm:
        return body.template operator()<T, NormKind::layernorm>();
      case NormKind::rmsnorm:
        return body.template operator()<T, NormKind::rmsnorm>();
      case NormKind::l2:
        return body.template operator()<T, NormKind::l2>();
    }
  });
}

}  // namespace

void norm_forward(const Context& ctx, NormKind kind, const Tensor& y, const NormStatistics& saved,
                  const Tensor& x, const Tensor& weight, const Tensor& bias, double eps) {
  expect_on_device(ctx, y, saved.mean, saved.rstd, x, weight, bias);
  const std::int64_t rows = rows_of(x);
  if (rows == 0) return;
  const CurrentDevice current(ctx.device);
  if (norm_rows_forward(ctx, kind, y, saved, {x, {}, {}, 1, {}, {}}, weight, bias, eps)) return;
  dispatch_norm(x.dtype, kind, [&]<class T, NormKind kKind>() {
    using C = Compute<T>;
    const Forward<T> p{
        Rows<T>(y),   Rows<T>(x), saved.mean.as<C>(), saved.rstd.as<C>(), weight.as<C>(),
        bias.as<C>(), rows,       columns_of(x),      static_cast<C>(eps)};
    launch(ctx, "norm_forward", warp_per_row(rows), norm_forward_kernel<T, kKind>, p);
  });
}

void norm_backward_input(const Context& ctx, NormKind kind, const Tensor& dx, const Tensor& dy,
                         const Tensor& x, const NormStatistics& saved, const Tensor& weight,
                         double eps, Accumulate accumulate) {
  expect_on_device(ctx, dx, dy, x, saved.mean, saved.rstd, weight);
  const std::int64_t rows = rows_of(x);
  if (rows == 0) return;
  const CurrentDevice current(ctx.device);
  dispatch_norm(x.dtype, kind, [&]<class T, NormKind kKind>() {
    using C = Compute<T>;
    const BackwardInput<T> p{Rows<T>(dx),
                             Rows<T>(dy),
                             Rows<T>(x),
                             saved.mean.as<C>(),
                             saved.rstd.as<C>(),
                             weight.as<C>(),
                             rows,
                             columns_of(x),
                             static_cast<C>(eps),
                             accumulate == Accumulate::add};
    launch(ctx, "norm_backward_input", warp_per_row(rows), norm_backward_kernel<T, kKind>, p);
  });
}

void norm_backward_parameters(const Context& ctx, NormKind kind, const Tensor& d_weight,
                              const Tensor& d_bias, const Tensor& dy, const Tensor& x,
                              const NormStatistics& saved) {
  expect_on_device(ctx, d_weight, d_bias, dy, x, saved.mean, saved.rstd);
  if (!d_weight && !d_bias) return;
  QF_EXPECTS(!d_weight || saved.rstd);
  const std::int64_t rows = rows_of(x), n = columns_of(x);
  const CurrentDevice current(ctx.device);
  dispatch_storage(x.dtype, [&]<class T>() {
    using C = Compute<T>;
    const C* mean = kind == NormKind::layernorm ? saved.mean.as<C>() : nullptr;
    const C* rstd = d_weight ? saved.rstd.as<C>() : nullptr;
    add_column_sums<C, 2, 1>(ctx, "norm_backward_parameters", {d_weight.as<C>(), d_bias.as<C>()},
                             rows, n, ParameterGradients<T>{Rows<T>(dy), Rows<T>(x), mean, rstd});
  });
}

void norm_backward(const Context& ctx, NormKind kind, const Tensor& dx, const Tensor& d_weight,
                   const Tensor& d_bias, const Tensor& dy, const Tensor& x,
                   const NormStatistics& saved, const Tensor& weight, double eps,
                   Accumulate accumulate) {
  expect_on_device(ctx, dx, d_weight, d_bias, dy, x, saved.mean, saved.rstd, weight);
  if (rows_of(x) == 0) return;
  const CurrentDevice current(ctx.device);
  if (norm_rows_backward(ctx, kind, dx, d_weight, d_bias, dy, x, saved, weight, accumulate)) return;
  cuda::norm_backward_parameters(ctx, kind, d_weight, d_bias, dy, x, saved);
  cuda::norm_backward_input(ctx, kind, dx, dy, x, saved, weight, eps, accumulate);
}

void join_norm_forward(const Context& ctx, NormKind kind, const Tensor& y,
                       const NormStatistics& saved, const Join& join, const Tensor& weight,
                       const Tensor& bias, double eps) {
  expect_on_device(ctx, y, saved.mean, saved.rstd, join.x, join.branch, join.sum, join.gain);
  expect_on_device(ctx, weight, bias);
  if (rows_of(y) == 0) return;
  const CurrentDevice current(ctx.device);
  if (norm_rows_forward(ctx, kind, y, saved, join, weight, bias, eps)) return;
  if (active(ctx, join.dropout)) cuda::dropout_apply(ctx, join.dropout, join.branch, join.branch);
  cuda::residual_forward(ctx, join.sum, join.x, join.branch, join.alpha, join.gain);
  cuda::norm_forward(ctx, kind, y, saved, join.sum, weight, bias, eps);
}

}  // namespace quietformer::cuda
