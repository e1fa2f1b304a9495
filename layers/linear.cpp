#include "layers/linear.h"

#include <cstring>

#include "core/cuda/gemm.h"
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

/// Whether a product on a GPU may take work of its neighbours.
bool fuses(const Context& ctx, const Tensor& t) {
  return ctx.device.type == DeviceType::cuda && t.dtype != DType::f64;
}

bool fuses_gelu(const Context& ctx, GeluForm form, const Tensor& t) {
  return fuses(ctx, t) && form == GeluForm::tanh && t.dtype != DType::f32;
}

}  // namespace

void linear_forward(const Context& ctx, const Tensor& y, const Tensor& x, const Tensor& weight,
                    const Tensor& bias) {
  const Tensor out = as_matrix(y);
  if (bias && fuses(ctx, out)) {
    QF_EXPECTS(bias.count() == out.shape[1] && bias.dtype == out.dtype && bias.contiguous());
    if (cuda::gemm_with(ctx, out, as_matrix(x), Transpose::no, weight, Transpose::yes,
                        {cuda::Epilogue::Kind::bias, bias, {}}))
      return;
  }
  // The product is added to the bias: cheaper than adding the bias to the product.
  if (bias) copy_to_rows(ctx, out, bias);
  gemm(ctx, out, as_matrix(x), Transpose::no, weight, Transpose::yes, 1.0,
       bias ? Accumulate::add : Accumulate::overwrite);
}

void linear_gelu_forward(const Context& ctx, GeluForm form, const Tensor& y, const Tensor& z,
                         const Tensor& x, const Tensor& weight, const Tensor& bias) {
  if (bias && fuses_gelu(ctx, form, y)) {
    QF_EXPECTS(y.shape == z.shape && z.dtype == y.dtype && bias.dtype == y.dtype);
    if (cuda::gemm_with(ctx, as_matrix(y), as_matrix(x), Transpose::no, weight, Transpose::yes,
                        {cuda::Epilogue::Kind::bias_gelu, bias, as_matrix(z)}))
      return;
  }
  linear_forward(ctx, z, x, weight, bias);
  gelu_forward(ctx, form, y, z);
}

void linear_gelu_backward_input(const Context& ctx, GeluForm form, const Tensor& dz,
                                const Tensor& dy, const Tensor& weight, const Tensor& z) {
  if (fuses_gelu(ctx, form, dz)) {
    QF_EXPECTS(dz.shape == z.shape && z.dtype == dz.dtype);
    if (cuda::gemm_with(ctx, as_matrix(dz), as_matrix(dy), Transpose::no, weight, Transpose::no,
                        {cuda::Epilogue::Kind::gelu_backward, {}, as_matrix(z)}))
      return;
  }
  linear_backward_input(ctx, dz, dy, weight);
  gelu_backward(ctx, form, dz, dz, z);
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
  QF_EXPECTS(d_bias.count() == d_out.shape[1] && d_bias.dtype == accumulation_dtype(d_out.dtype));
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
    : input_name_(path + ".input"), weight_(parameters.add(path + ".weight", {out, in}, init)) {
  if (bias == Bias::yes) bias_ = parameters.add(path + ".bias", {out}, Init::constant(0));
}

void Linear::forward(const Context& ctx, const Tensor& y, const Tensor& x) {
  input_ = x;
  linear_forward(ctx, y, operand(ctx, hook_, input_name_, x), weight_.value, bias_.value);
}

void Linear::forward_gelu(const Context& ctx, GeluForm form, const Tensor& y, const Tensor& z,
                          const Tensor& x) {
  input_ = x;
  linear_gelu_forward(ctx, form, y, z, operand(ctx, hook_, input_name_, x), weight_.value,
                      bias_.value);
}

void Linear::backward_gelu(const Context& ctx, GeluForm form, const Tensor& dz, const Tensor& dy,
                           const Tensor& z) {
  linear_backward_parameters(ctx, weight_.grad, bias_.grad, dy, input_);
  linear_gelu_backward_input(ctx, form, dz, dy, weight_.value, z);
}

void Linear::backward(const Context& ctx, const Tensor& dx, const Tensor& dy,
                      Accumulate accumulate) {
  linear_backward_parameters(ctx, weight_.grad, bias_.grad, dy, input_);
  linear_backward_input(ctx, dx, dy, weight_.value, accumulate);
}

}  // namespace quietformer
