// A warp per row. It looks at its row several times, the first from memory and the others from the
// first-level cache: rows are short (4 KiB at 1024 channels).
#include "layers/cuda/operations.h"
#include "layers/cuda/rows.cuh"

namespace quietformer::cuda {
namespace {

/// Sum of term(i) over [0, n), known to all lanes.
template <class T, class Term>
__device__ T row_sum(std::int64_t n, const Term& term) {
  T sum = 0;
  for (std::int64_t i = lane(); i < n; i += kWarp) sum += term(i);
  return warp_reduce(sum, Plus());
}

template <class T>
struct Forward {
  Rows<T> y, x;
  T *mean, *rstd;  // null where nothing is saved
  const T *weight, *bias;
  std::int64_t rows, n;
  T eps;
};

template <class T, NormKind kKind>
__global__ void norm_forward_kernel(Forward<T> p) {
  const std::int64_t row = row_of_warp(), n = p.n;
  if (row >= p.rows) return;
  const T* x = p.x[row];
  T* y = p.y[row];
  T mean = 0;
  if constexpr (kKind == NormKind::layernorm)
    mean = row_sum<T>(n, [=](std::int64_t i) { return x[i]; }) / T(n);
  // The second look at a row does not cancel, unlike mean(x^2) - mean^2.
  const T squares = row_sum<T>(n, [=](std::int64_t i) { return (x[i] - mean) * (x[i] - mean); });
  const T rstd = kKind == NormKind::l2 ? T(1) / max(sqrt(squares), p.eps)
                                       : T(1) / sqrt(squares / T(n) + p.eps);
  for (std::int64_t i = lane(); i < n; i += kWarp) {
    T value = (x[i] - mean) * rstd;
    if (p.weight != nullptr) value *= p.weight[i];
    if (p.bias != nullptr) value += p.bias[i];
    y[i] = value;
  }
  if (lane() != 0) return;
  if (kKind == NormKind::layernorm && p.mean != nullptr) p.mean[row] = mean;
  if (p.rstd != nullptr) p.rstd[row] = rstd;
}

template <class T>
struct BackwardInput {
  Rows<T> dx, dy, x;
  const T *mean, *rstd, *weight;
  std::int64_t rows, n;
  T eps;
  bool add;
};

/// dx = rstd (g - shift - xhat * slope), g = dy * weight.
template <class T, NormKind kKind>
__global__ void norm_backward_kernel(BackwardInput<T> p) {
  const std::int64_t row = row_of_warp(), n = p.n;
  if (row >= p.rows) return;
  const T *dy = p.dy[row], *x = p.x[row], *weight = p.weight;
  const T mean = kKind == NormKind::layernorm ? p.mean[row] : T(0), rstd = p.rstd[row];
  const auto g = [=](std::int64_t i) { return weight != nullptr ? dy[i] * weight[i] : dy[i]; };
  T slope = row_sum<T>(n, [=](std::int64_t i) { return g(i) * ((x[i] - mean) * rstd); });
  if constexpr (kKind == NormKind::l2)
    slope = rstd * p.eps < T(1) ? slope : T(0);  // below eps the norm divides by a constant
  else
    slope /= T(n);
  T shift = 0;
  if constexpr (kKind == NormKind::layernorm) shift = row_sum<T>(n, g) / T(n);
  T* dx = p.dx[row];
  for (std::int64_t i = lane(); i < n; i += kWarp) {
    const T value = rstd * (g(i) - shift - (x[i] - mean) * rstd * slope);
    dx[i] = p.add ? dx[i] + value : value;
  }
}

/// Sums for the weight and for the bias.
template <class T>
struct ParameterGradients {
  Rows<T> dy, x;
  const T *mean, *rstd;  // no mean but layernorm's; neither where only the bias is wanted
  __device__ void operator()(T (&sum)[2], std::int64_t r, std::int64_t c) const {
    const T d = dy[r][c];
    if (rstd != nullptr) sum[0] += d * ((x[r][c] - (mean != nullptr ? mean[r] : T(0))) * rstd[r]);
    sum[1] += d;
  }
};

/// body.operator()<T, kind>().
template <class Body>
void dispatch_norm(DType dtype, NormKind kind, const Body& body) {
  dispatch_floating(dtype, [&]<class T>() {
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
  dispatch_norm(x.dtype, kind, [&]<class T, NormKind kKind>() {
    const Forward<T> p{
        Rows<T>(y),   Rows<T>(x), saved.mean.as<T>(), saved.rstd.as<T>(), weight.as<T>(),
        bias.as<T>(), rows,       columns_of(x),      static_cast<T>(eps)};
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
    const BackwardInput<T> p{Rows<T>(dx),
                             Rows<T>(dy),
                             Rows<T>(x),
                             saved.mean.as<T>(),
                             saved.rstd.as<T>(),
                             weight.as<T>(),
                             rows,
                             columns_of(x),
                             static_cast<T>(eps),
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
  dispatch_floating(x.dtype, [&]<class T>() {
    const T* mean = kind == NormKind::layernorm ? saved.mean.as<T>() : nullptr;
    const T* rstd = d_weight ? saved.rstd.as<T>() : nullptr;
    add_column_sums<T, 2>(ctx, "norm_backward_parameters", {d_weight.as<T>(), d_bias.as<T>()}, rows,
                          n, ParameterGradients<T>{Rows<T>(dy), Rows<T>(x), mean, rstd});
  });
}

}  // namespace quietformer::cuda
