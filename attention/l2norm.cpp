#include "attention/l2norm.h"

#include <fmt/format.h>

#include "attention/score/cosine.h"
#include "core/parallel.h"

namespace quietformer {
namespace {

constexpr std::int64_t kGrain = 256;  // rows per chunk

template <class T>
double dot(const T* a, const T* b, std::int64_t count) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t c = 0; c < count; ++c) sum += double(a[c]) * double(b[c]);
  return sum;
}

std::int64_t check_rows(const Tensor& x, const Tensor& other, int groups) {
  const std::int64_t dim = x.shape.rank > 0 ? x.shape[x.shape.rank - 1] : 0;
  if (dim < 1 || groups < 1 || dim % groups != 0)
    throw InputError(fmt::format("l2norm: {} groups do not divide the last dimension of {}", groups,
                                 to_string(x.shape)));
  if (!(other.shape == x.shape) || other.dtype != x.dtype)
    throw InputError(fmt::format("l2norm: {} {}, expected {} {}", name_of(other.dtype),
                                 to_string(other.shape), name_of(x.dtype), to_string(x.shape)));
  QF_EXPECTS(x.contiguous() && other.contiguous());
  return dim;
}

}  // namespace

template <class T>
void l2norm_rows(T* out, std::int64_t ld_out, const T* x, std::int64_t ld_x, std::int64_t rows,
                 std::int64_t dim, int groups) {
  const std::int64_t width = dim / groups;
  for (std::int64_t row = 0; row < rows; ++row)
    for (int g = 0; g < groups; ++g) {
      const T* from = x + row * ld_x + g * width;
      T* to = out + row * ld_out + g * width;
      const double inverse = Cosine::inverse_norm(dot(from, from, width));
      for (std::int64_t c = 0; c < width; ++c) to[c] = T(from[c] * inverse);
    }
}

template <class T>
void l2norm_backward_rows(T* d_x, std::int64_t ld_dx, const T* d_out, std::int64_t ld_dout,
                          const T* x, std::int64_t ld_x, std::int64_t rows, std::int64_t dim,
                          int groups) {
  const std::int64_t width = dim / groups;
  for (std::int64_t row = 0; row < rows; ++row)
    for (int g = 0; g < groups; ++g) {
      const T* from = x + row * ld_x + g * width;
      const T* gradient = d_out + row * ld_dout + g * width;
      T* to = d_x + row * ld_dx + g * width;
      const double squares = dot(from, from, width);
      const double inverse = Cosine::inverse_norm(squares);
      const double y_dot_dy = dot(from, gradient, width) * inverse;
      const double projection = Cosine::projection(y_dot_dy, squares) * inverse;
      for (std::int64_t c = 0; c < width; ++c)
        to[c] = T((gradient[c] - from[c] * projection) * inverse);
    }
}

template void l2norm_rows(float*, std::int64_t, const float*, std::int64_t, std::int64_t,
                          std::int64_t, int);
template void l2norm_rows(double*, std::int64_t, const double*, std::int64_t, std::int64_t,
                          std::int64_t, int);
template void l2norm_backward_rows(float*, std::int64_t, const float*, std::int64_t, const float*,
                                   std::int64_t, std::int64_t, std::int64_t, int);
template void l2norm_backward_rows(double*, std::int64_t, const double*, std::int64_t,
                                   const double*, std::int64_t, std::int64_t, std::int64_t, int);

void l2norm(const Context& ctx, const Tensor& out, const Tensor& x, int groups) {
  const std::int64_t dim = check_rows(x, out, groups);
  dispatch_floating(x.dtype, [&]<class T>() {
    parallel_for(ctx, x.count() / dim, kGrain, [&](std::int64_t begin, std::int64_t end) {
      l2norm_rows(out.as<T>() + begin * dim, dim, x.as<T>() + begin * dim, dim, end - begin, dim,
                  groups);
    });
  });
}

void l2norm_backward(const Context& ctx, const Tensor& d_x, const Tensor& d_out, const Tensor& x,
                     int groups) {
  const std::int64_t dim = check_rows(x, d_out, groups);
  check_rows(x, d_x, groups);
  dispatch_floating(x.dtype, [&]<class T>() {
    parallel_for(ctx, x.count() / dim, kGrain, [&](std::int64_t begin, std::int64_t end) {
      l2norm_backward_rows(d_x.as<T>() + begin * dim, dim, d_out.as<T>() + begin * dim, dim,
                           x.as<T>() + begin * dim, dim, end - begin, dim, groups);
    });
  });
}

}  // namespace quietformer
