#include "layers/residual.h"

#include "layers/cuda/operations.h"
#include "layers/rows.h"

namespace quietformer {
namespace {

void check_alike(const Tensor& a, const Tensor& b) {
  QF_EXPECTS(a.shape == b.shape && a.dtype == b.dtype && a.contiguous() && b.contiguous());
}

/// row(r) for every row, in chunks.
template <class Row>
void for_rows(const Context& ctx, const Tensor& t, const Row& row) {
  parallel_for(ctx, rows_of(t), row_grain(columns_of(t)),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t r = begin; r < end; ++r) row(r);
               });
}

}  // namespace

void residual_forward(const Context& ctx, const Tensor& out, const Tensor& x, const Tensor& branch,
                      double alpha, const Tensor& gain) {
  check_alike(out, x), check_alike(out, branch);
  QF_EXPECTS(!gain ||
             (gain.count() == columns_of(out) && gain.dtype == accumulation_dtype(out.dtype)));
  if (ctx.device.type == DeviceType::cuda)
    return cuda::residual_forward(ctx, out, x, branch, alpha, gain);
  dispatch_floating(out.dtype, [&]<class T>() {
    T* sum = out.as<T>();
    const T *a = x.as<T>(), *b = branch.as<T>(), *g = gain.as<T>();
    const T factor = T(alpha);
    if (!gain) {
      elementwise(ctx, out.count(), [=](std::int64_t i) { sum[i] = factor * a[i] + b[i]; });
      return;
    }
    const std::int64_t n = columns_of(out);
    for_rows(ctx, out, [=](std::int64_t r) {
      T* sum_row = sum + r * n;
      const T *a_row = a + r * n, *b_row = b + r * n;
      simd_for(0, n, [=](std::int64_t i) { sum_row[i] = factor * a_row[i] + g[i] * b_row[i]; });
    });
  });
}

void residual_backward_gain(const Context& ctx, const Tensor& d_branch, const Tensor& d_gain,
                            const Tensor& d_out, const Tensor& branch, const Tensor& gain) {
  check_alike(d_branch, d_out), check_alike(d_out, branch);
  const std::int64_t n = columns_of(d_out);
  QF_EXPECTS(gain.count() == n && d_gain.count() == n);
  QF_EXPECTS(gain.dtype == accumulation_dtype(d_out.dtype) && d_gain.dtype == gain.dtype);
  if (ctx.device.type == DeviceType::cuda)
    return cuda::residual_backward_gain(ctx, d_branch, d_gain, d_out, branch, gain);
  dispatch_floating(d_out.dtype, [&]<class T>() {
    T* db = d_branch.as<T>();
    const T *d = d_out.as<T>(), *b = branch.as<T>(), *g = gain.as<T>();
    add_column_sums(ctx, d_gain.as<T>(), rows_of(d_out), n,
                    [=](std::int64_t r, std::int64_t c) { return d[r * n + c] * b[r * n + c]; });
    for_rows(ctx, d_out, [=](std::int64_t r) {
      T* db_row = db + r * n;
      const T* d_row = d + r * n;
      simd_for(0, n, [=](std::int64_t i) { db_row[i] = g[i] * d_row[i]; });
    });
  });
}

}  // namespace quietformer
