#include "attention/softmax_n.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "attention/normalizer/softmax_n.h"
#include "core/parallel.h"

namespace quietformer {
namespace {

/// A contiguous tensor as (outer, length, inner) around one dimension. Work goes in strips of
/// neighbouring inner columns, which are contiguous in memory.
struct Strips {
  static constexpr std::int64_t kWidth = 32;
  static constexpr std::int64_t kGrain = 16384;  // elements per chunk, about

  std::int64_t length, inner, per_outer, count, grain;

  Strips(const Tensor& x, int dim) {
    const int axis = dim < 0 ? dim + x.shape.rank : dim;
    if (axis < 0 || axis >= x.shape.rank)
      throw InputError(fmt::format("softmax_n: dimension {} of shape {}", dim, to_string(x.shape)));
    std::int64_t outer = 1;
    for (int i = 0; i < axis; ++i) outer *= x.shape[i];
    length = x.shape[axis];
    inner = 1;
    for (int i = axis + 1; i < x.shape.rank; ++i) inner *= x.shape[i];
    per_outer = (inner + kWidth - 1) / kWidth;
    count = outer * per_outer;
    grain = std::max<std::int64_t>(1, kGrain / std::max<std::int64_t>(1, length * kWidth));
  }

  /// Calls f(offset of the strip's first element, width).
  template <class F>
  void for_each(const Context& ctx, F&& f) const {
    parallel_for(ctx, count, grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t strip = begin; strip < end; ++strip) {
        const std::int64_t column = strip % per_outer * kWidth;
        f(strip / per_outer * length * inner + column, std::min(kWidth, inner - column));
      }
    });
  }
};

void check_pair(const Tensor& a, const Tensor& b) {
  if (!(a.shape == b.shape) || a.dtype != b.dtype)
    throw InputError(fmt::format("softmax_n: {} {} with {} {}, expected two of a kind",
                                 name_of(a.dtype), to_string(a.shape), name_of(b.dtype),
                                 to_string(b.shape)));
  QF_EXPECTS(a.contiguous() && b.contiguous());
}

template <class T>
void forward_row(T* out, const T* x, std::int64_t length,
                 const SoftmaxN::Parameters<double>& parameters) {
  SoftmaxN::Partial<double> partial;
  T high = -math::kInfinity<T>;
#pragma omp simd reduction(max : high)
  for (std::int64_t j = 0; j < length; ++j) high = x[j] > high ? x[j] : high;
  SoftmaxN::raise(partial, double(high));
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t j = 0; j < length; ++j) {
    out[j] = SoftmaxN::term(x[j], partial);
    sum += double(out[j]);
  }
  SoftmaxN::add(partial, sum);
  const T scale = T(SoftmaxN::scale(partial, parameters));
  for (std::int64_t j = 0; j < length; ++j) out[j] *= scale;
}

template <class T>
void forward_strip(T* out, const T* x, const Strips& strips, std::int64_t width,
                   const SoftmaxN::Parameters<double>& parameters) {
  std::array<SoftmaxN::Partial<double>, Strips::kWidth> partial;
  for (std::int64_t j = 0; j < strips.length; ++j)
    for (std::int64_t c = 0; c < width; ++c)
      SoftmaxN::raise(partial[c], double(x[j * strips.inner + c]));
  for (std::int64_t j = 0; j < strips.length; ++j)
    for (std::int64_t c = 0; c < width; ++c) {
      T& to = out[j * strips.inner + c];
      to = SoftmaxN::term(x[j * strips.inner + c], partial[c]);
      SoftmaxN::add(partial[c], double(to));
    }
  std::array<T, Strips::kWidth> scale;
  for (std::int64_t c = 0; c < width; ++c) scale[c] = T(SoftmaxN::scale(partial[c], parameters));
  for (std::int64_t j = 0; j < strips.length; ++j)
    for (std::int64_t c = 0; c < width; ++c) out[j * strips.inner + c] *= scale[c];
}

template <class T>
void backward_strip(T* d_x, const T* d_out, const T* out, const Strips& strips,
                    std::int64_t width) {
  std::array<double, Strips::kWidth> delta{};
  for (std::int64_t j = 0; j < strips.length; ++j)
    for (std::int64_t c = 0; c < width; ++c)
      delta[c] += double(out[j * strips.inner + c]) * double(d_out[j * strips.inner + c]);
  for (std::int64_t j = 0; j < strips.length; ++j)
    for (std::int64_t c = 0; c < width; ++c) {
      const std::int64_t at = j * strips.inner + c;
      d_x[at] = out[at] * (d_out[at] - T(delta[c]));
    }
}

}  // namespace

void softmax_n(const Context& ctx, const Tensor& out, const Tensor& x, double n, int dim) {
  check_pair(out, x);
  if (!(n >= 0)) throw InputError(fmt::format("softmax_n: n = {}, expected at least 0", n));
  const Strips strips(x, dim);
  const double values[] = {n, SoftmaxN::parameters[1].default_value};
  const SoftmaxN::Parameters<double> parameters = SoftmaxN::load(values);
  dispatch_floating(x.dtype, [&]<class T>() {
    strips.for_each(ctx, [&](std::int64_t at, std::int64_t width) {
      if (strips.inner == 1)
        forward_row(out.as<T>() + at, x.as<T>() + at, strips.length, parameters);
      else
        forward_strip(out.as<T>() + at, x.as<T>() + at, strips, width, parameters);
    });
  });
}

void softmax_n_backward(const Context& ctx, const Tensor& d_x, const Tensor& d_out,
                        const Tensor& out, int dim) {
  check_pair(d_x, d_out);
  check_pair(out, d_out);
  const Strips strips(out, dim);
  dispatch_floating(out.dtype, [&]<class T>() {
    strips.for_each(ctx, [&](std::int64_t at, std::int64_t width) {
      backward_strip(d_x.as<T>() + at, d_out.as<T>() + at, out.as<T>() + at, strips, width);
    });
  });
}

}  // namespace quietformer
