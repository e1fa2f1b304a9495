#include "layers/norm.h"

#include <cmath>
#include <utility>

#include "layers/cuda/operations.h"
#include "layers/residual.h"
#include "layers/rows.h"

namespace quietformer {
namespace {

/// Rows of features in one, two or (contiguous) more outer dimensions.
template <class T>
struct Rows {
  T* data;
  std::int64_t inner;  // rows per outer index
  std::int64_t outer_stride, inner_stride;
  T* operator[](std::int64_t row) const {
    if (inner == 1) return data + row * outer_stride;  // a division costs as much as a short row
    return data + row / inner * outer_stride + row % inner * inner_stride;
  }
};

template <class T>
Rows<T> rows_view(const Tensor& t) {
  const int rank = t.shape.rank;
  if (rank == 3 && !t.contiguous()) {
    QF_EXPECTS(t.stride[2] == 1);
    return {t.as<T>(), t.shape[1], t.stride[0], t.stride[1]};
  }
  if (rank == 2 && !t.contiguous()) {
    QF_EXPECTS(t.stride[1] == 1);
    return {t.as<T>(), 1, t.stride[0], 0};
  }
  QF_EXPECTS(t.contiguous());
  return {t.as<T>(), 1, columns_of(t), 0};
}

template <class T>
T mean_of(const T* x, std::int64_t n) {
  return lane_sum<T>(n, [=](std::int64_t i) { return x[i]; }) / T(n);
}

/// Sum of (x - mean)^2: the second look at a row comes from the cache, and unlike
/// mean(x^2) - mean^2 it does not cancel.
template <class T>
T squares(const T* x, T mean, std::int64_t n) {
  return lane_sum<T>(n, [=](std::int64_t i) { return (x[i] - mean) * (x[i] - mean); });
}

template <class T>
T reciprocal_scale(NormKind kind, const T* x, T mean, std::int64_t n, T eps) {
  const T sum = squares(x, mean, n);
  if (kind == NormKind::l2) return T(1) / std::max(std::sqrt(sum), eps);
  return T(1) / std::sqrt(sum / T(n) + eps);
}

template <class T>
void normalise_row(T* y, const T* x, T mean, T rstd, const T* weight, const T* bias,
                   std::int64_t n) {
  const auto plain = [=](std::int64_t i) { return (x[i] - mean) * rstd; };
  if (weight != nullptr && bias != nullptr)
    simd_for(0, n, [=](std::int64_t i) { y[i] = plain(i) * weight[i] + bias[i]; });
  else if (weight != nullptr)
    simd_for(0, n, [=](std::int64_t i) { y[i] = plain(i) * weight[i]; });
  else
    simd_for(0, n, [=](std::int64_t i) { y[i] = plain(i); });
}

/// Two scalars of a row's backward: dx = rstd (g - shift - xhat * slope), g = dy * weight.
template <class T>
struct RowGradient {
  T shift, slope;
};

template <class T>
RowGradient<T> row_gradient(NormKind kind, const T* dy, const T* x, T mean, T rstd, const T* weight,
                            std::int64_t n, T eps) {
  const auto g = [=](std::int64_t i) { return weight != nullptr ? dy[i] * weight[i] : dy[i]; };
  const T along = lane_sum<T>(n, [&](std::int64_t i) { return g(i) * ((x[i] - mean) * rstd); });
  // Below eps the l2 norm divides by a constant.
  if (kind == NormKind::l2) return {T(0), rstd * eps < T(1) ? along : T(0)};
  if (kind == NormKind::rmsnorm) return {T(0), along / T(n)};
  return {lane_sum<T>(n, g) / T(n), along / T(n)};
}

template <class T>
void gradient_row(T* dx, const T* dy, const T* x, T mean, T rstd, const T* weight,
                  RowGradient<T> row, std::int64_t n, Accumulate accumulate) {
  const auto value = [=](std::int64_t i, T g) {
    return rstd * (g - row.shift - (x[i] - mean) * rstd * row.slope);
  };
  if (accumulate == Accumulate::add && weight != nullptr)
    simd_for(0, n, [=](std::int64_t i) { dx[i] += value(i, dy[i] * weight[i]); });
  else if (accumulate == Accumulate::add)
    simd_for(0, n, [=](std::int64_t i) { dx[i] += value(i, dy[i]); });
  else if (weight != nullptr)
    simd_for(0, n, [=](std::int64_t i) { dx[i] = value(i, dy[i] * weight[i]); });
  else
    simd_for(0, n, [=](std::int64_t i) { dx[i] = value(i, dy[i]); });
}

void check_shapes(NormKind kind, const Tensor& a, const Tensor& b, const NormStatistics& saved) {
  QF_EXPECTS(a.shape == b.shape && a.dtype == b.dtype);
  QF_EXPECTS(!saved.rstd ||
             (saved.rstd.count() == rows_of(a) && saved.rstd.dtype == accumulation_dtype(a.dtype)));
  QF_EXPECTS(!saved.rstd || kind != NormKind::layernorm || saved.mean.count() == rows_of(a));
}

}  // namespace

void norm_forward(const Context& ctx, NormKind kind, const Tensor& y, const NormStatistics& saved,
                  const Tensor& x, const Tensor& weight, const Tensor& bias, double eps) {
  check_shapes(kind, y, x, saved);
  if (ctx.device.type == DeviceType::cuda)
    return cuda::norm_forward(ctx, kind, y, saved, x, weight, bias, eps);
  dispatch_floating(x.dtype, [&]<class T>() {
    const std::int64_t n = columns_of(x);
    const Rows<T> in = rows_view<T>(x), out = rows_view<T>(y);
    T* means = kind == NormKind::layernorm ? saved.mean.as<T>() : nullptr;
    T* rstds = saved.rstd.as<T>();
    parallel_for(ctx, rows_of(x), row_grain(n), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) {
        const T* row = in[r];
        const T mean = kind == NormKind::layernorm ? mean_of(row, n) : T(0);
        const T rstd = reciprocal_scale(kind, row, mean, n, T(eps));
        if (means != nullptr) means[r] = mean;
        if (rstds != nullptr) rstds[r] = rstd;
        normalise_row(out[r], row, mean, rstd, weight.as<T>(), bias.as<T>(), n);
      }
    });
  });
}

void norm_backward_input(const Context& ctx, NormKind kind, const Tensor& dx, const Tensor& dy,
                         const Tensor& x, const NormStatistics& saved, const Tensor& weight,
                         double eps, Accumulate accumulate) {
  check_shapes(kind, dx, dy, saved);
  QF_EXPECTS(saved.rstd && x.shape == dx.shape);
  if (ctx.device.type == DeviceType::cuda)
    return cuda::norm_backward_input(ctx, kind, dx, dy, x, saved, weight, eps, accumulate);
  dispatch_floating(x.dtype, [&]<class T>() {
    const std::int64_t n = columns_of(x);
    const Rows<T> in = rows_view<T>(x), d_out = rows_view<T>(dy), d_in = rows_view<T>(dx);
    const T* scale = weight.as<T>();
    parallel_for(ctx, rows_of(x), row_grain(n), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) {
        const T mean = kind == NormKind::layernorm ? saved.mean.as<T>()[r] : T(0);
        const T rstd = saved.rstd.as<T>()[r];
        const auto row = row_gradient(kind, d_out[r], in[r], mean, rstd, scale, n, T(eps));
        gradient_row(d_in[r], d_out[r], in[r], mean, rstd, scale, row, n, accumulate);
      }
    });
  });
}

void norm_backward_parameters(const Context& ctx, NormKind kind, const Tensor& d_weight,
                              const Tensor& d_bias, const Tensor& dy, const Tensor& x,
                              const NormStatistics& saved) {
  check_shapes(kind, dy, x, saved);
  if (ctx.device.type == DeviceType::cuda)
    return cuda::norm_backward_parameters(ctx, kind, d_weight, d_bias, dy, x, saved);
  dispatch_floating(x.dtype, [&]<class T>() {
    const std::int64_t n = columns_of(x), rows = rows_of(x);
    const Rows<T> in = rows_view<T>(x), d_out = rows_view<T>(dy);
    const T *means = saved.mean.as<T>(), *rstds = saved.rstd.as<T>();
    if (d_bias)
      add_column_sums(ctx, d_bias.as<T>(), rows, n,
                      [&](std::int64_t r, std::int64_t c) { return d_out[r][c]; });
    if (!d_weight) return;
    if (kind == NormKind::layernorm)
      add_column_sums(ctx, d_weight.as<T>(), rows, n, [&](std::int64_t r, std::int64_t c) {
        return d_out[r][c] * ((in[r][c] - means[r]) * rstds[r]);
      });
    else
      add_column_sums(ctx, d_weight.as<T>(), rows, n, [&](std::int64_t r, std::int64_t c) {
        return d_out[r][c] * (in[r][c] * rstds[r]);
      });
  });
}

void norm_backward(const Context& ctx, NormKind kind, const Tensor& dx, const Tensor& d_weight,
                   const Tensor& d_bias, const Tensor& dy, const Tensor& x,
                   const NormStatistics& saved, const Tensor& weight, double eps,
                   Accumulate accumulate) {
  check_shapes(kind, dx, dy, saved);
  QF_EXPECTS(saved.rstd && x.shape == dx.shape);
  if (ctx.device.type == DeviceType::cuda)
    return cuda::norm_backward(ctx, kind, dx, d_weight, d_bias, dy, x, saved, weight, eps,
                               accumulate);
  norm_backward_parameters(ctx, kind, d_weight, d_bias, dy, x, saved);
  norm_backward_input(ctx, kind, dx, dy, x, saved, weight, eps, accumulate);
}

void join_norm_forward(const Context& ctx, NormKind kind, const Tensor& y,
                       const NormStatistics& saved, const Join& join, const Tensor& weight,
                       const Tensor& bias, double eps) {
  check_shapes(kind, y, join.sum, saved);
  if (ctx.device.type == DeviceType::cuda) {
    for (const Tensor* t : {&join.x, &join.branch, &join.sum})
      QF_EXPECTS(t->shape == y.shape && t->dtype == y.dtype && t->contiguous());
    return cuda::join_norm_forward(ctx, kind, y, saved, join, weight, bias, eps);
  }
  if (active(ctx, join.dropout)) dropout_apply(ctx, join.dropout, join.branch, join.branch);
  residual_forward(ctx, join.sum, join.x, join.branch, join.alpha, join.gain);
  norm_forward(ctx, kind, y, saved, join.sum, weight, bias, eps);
}

Norm::Norm(ParameterList& parameters, std::string path, NormKind kind, std::int64_t dim, double eps)
    : path_(std::move(path)), kind_(kind), eps_(eps), dtype_(parameters.master_dtype()) {
  if (kind == NormKind::l2) return;
  weight_ = parameters.add(path_ + ".weight", {dim}, Init::constant(1));
  if (kind == NormKind::layernorm)
    bias_ = parameters.add(path_ + ".bias", {dim}, Init::constant(0));
}

void Norm::declare(Arena& arena, std::int64_t rows, Purpose purpose) {
  if (purpose == Purpose::inference) return;
  if (kind_ == NormKind::layernorm) mean_ = arena.declare(path_ + ".mean", dtype_, {rows});
  rstd_ = arena.declare(path_ + ".rstd", dtype_, {rows});
}

NormStatistics Norm::saved(std::int64_t rows) const {
  NormStatistics saved;
  if (mean_) saved.mean = fit(mean_, {rows});
  if (rstd_) saved.rstd = fit(rstd_, {rows});
  return saved;
}

void Norm::forward(const Context& ctx, const Tensor& y, const Tensor& x) {
  input_ = x;
  norm_forward(ctx, kind_, y, saved(rows_of(x)), x, weight_.master, bias_.master, eps_);
}

void Norm::forward(const Context& ctx, const Tensor& y, const Join& join) {
  input_ = join.sum;
  join_norm_forward(ctx, kind_, y, saved(rows_of(join.sum)), join, weight_.master, bias_.master,
                    eps_);
}

void Norm::backward(const Context& ctx, const Tensor& dx, const Tensor& dy, Accumulate accumulate) {
  const NormStatistics statistics = saved(rows_of(input_));
  norm_backward(ctx, kind_, dx, weight_.grad, bias_.grad, dy, input_, statistics, weight_.master,
                eps_, accumulate);
}

}  // namespace quietformer
