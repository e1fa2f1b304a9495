#include "layers/linear.h"

#include <cstring>

#include "layers/cuda/operations.h"
#include "layers/rows.h"

namespace quietformer {
namespace {

/// As a matrix: contiguous tensors of any rank, or rank 2 with a row stride.
Tensor as_matrix(const Tensor& t) {
  return t.shape.rank == 2 ? t : as_rows(t);
}

void copy_to_rows(const Context& ctx, const Tensor& y, const Tensor& bias) {
  const std::int64_t columns = y.shape[1];
  QF_EXPECTS(bias.count() == columns && bias.dtype == y.dtype && bias.contiguous());
  if (ctx.device.type == DeviceType::cuda) return cuda::copy_to_rows(ctx, y, bias);
  const std::int64_t size = size_of(y.dtype);
  parallel_for(ctx, y.shape[0], row_grain(columns), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r)
      std::memcpy(static_cast<char*>(y.data) + r * y.stride[0] * size, bias.data,
                  static_cast<std::size_t>(columns * size));
  });
}

}  // namespace

void linear_forward(const Context& ctx, const Tensor& y, const Tensor& x, const Tensor& weight,
                    const Tensor& bias) {
  const Tensor out = as_matrix(y);
  // The product is added to the bias: cheaper than adding the bias to the product.
  if (bias) copy_to_rows(ctx, out, bias);
  gemm(ctx, out, as_matrix(x), Transpose::no, weight, Transpose::yes, 1.0,
       bias ? Accumulate::add : Accumulate::overwrite);
}

void linear_backward_input(const Context& ctx, const Tensor& dx, const Tensor& dy,
                           const Tensor& weight, Accumulate accumulate) {
  gemm(ctx, as_matrix(dx), as_matrix(dy), Transpose::no, weight, Transpose::no, 1.0, accumulate);
}

void linear_backward_parameters(const Context& ctx, const Tensor& d_weight, const Tensor& d_bias,
                                const Tensor& dy, const Tensor& x) {
  const Tensor d_out = as_matrix(dy);
  gemm(ctx, d_weight, d_out, Transpose::yes, as_matrix(x), Transpose::no, 1.0, Accumulate::add);
  if (!d_bias) return;
  QF_EXPECTS(d_bias.count() == d_out.shape[1] && d_bias.dtype == d_out.dtype);
  if (ctx.device.type == DeviceType::cuda) return cuda::add_rows(ctx, d_bias, d_out);
  dispatch_floating(dy.dtype, [&]<class T>() {
    const T* values = d_out.as<T>();
    const std::int64_t stride = d_out.stride[0];
    add_column_sums(ctx, d_bias.as<T>(), d_out.shape[0], d_out.shape[1],
                    [=](std::int64_t r, std::int64_t c) { return values[r * stride + c]; });
  });
}

Linear::Linear(ParameterList& parameters, const std::string& path, std::int64_t in,
               std::int64_t out, Bias bias, Init init)
    : weight_(parameters.add(path + ".weight", {out, in}, init)) {
  if (bias == Bias::yes) bias_ = parameters.add(path + ".bias", {out}, Init::constant(0));
}

void Linear::forward(const Context& ctx, const Tensor& y, const Tensor& x) {
  input_ = x;
  linear_forward(ctx, y, x, weight_.value, bias_.value);
}

void Linear::backward(const Context& ctx, const Tensor& dx, const Tensor& dy,
                      Accumulate accumulate) {
  linear_backward_parameters(ctx, weight_.grad, bias_.grad, dy, input_);
  linear_backward_input(ctx, dx, dy, weight_.value, accumulate);
}

}  // namespace quietformer
