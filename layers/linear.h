// Linear: y = x W^T + b.
#pragma once

#include <cstdint>
#include <string>

#include "core/gemm.h"
#include "layers/activation.h"
#include "layers/layer.h"
#include "layers/operand_hook.h"

namespace quietformer {

/// y (..., out) = x (..., in) weight^T + bias; weight (out, in) row-major, bias (out) or absent.
/// Contiguous, except that x and y of rank 2 may have any row stride. Nothing aliases. In bf16 and
/// f16 sums are f32, and gradients of parameters have that type.
void linear_forward(const Context& ctx, const Tensor& y, const Tensor& x, const Tensor& weight,
                    const Tensor& bias);

/// z = x weight^T + bias, y = gelu(z): linear_forward(), gelu_forward(). In bf16 and f16 on a GPU
/// the tanh form is part of the product and reads z before it is rounded.
void linear_gelu_forward(const Context& ctx, GeluForm form, const Tensor& y, const Tensor& z,
                         const Tensor& x, const Tensor& weight, const Tensor& bias);

/// dz = (dy weight) gelu'(z): linear_backward_input(), gelu_backward(); part of the product as
/// above. dz, z (..., in).
void linear_gelu_backward_input(const Context& ctx, GeluForm form, const Tensor& dz,
                                const Tensor& dy, const Tensor& weight, const Tensor& z);

/// dx = dy weight: overwritten, or added to. dx (..., in), dy (..., out); dx does not alias dy.
void linear_backward_input(const Context& ctx, const Tensor& dx, const Tensor& dy,
                           const Tensor& weight, Accumulate accumulate = Accumulate::overwrite);

/// d_weight += dy^T x; d_bias += column sums of dy, where present.
void linear_backward_parameters(const Context& ctx, const Tensor& d_weight, const Tensor& d_bias,
                                const Tensor& dy, const Tensor& x);

enum class Bias : std::uint8_t { no, yes };

/// Parameters `path.weight` (out, in) and, with a bias, `path.bias` (out), which starts at zero.
/// The input must stay unchanged until backward. Site: path.input.
class Linear {
 public:
  Linear(ParameterList& parameters, const std::string& path, std::int64_t in, std::int64_t out,
         Bias bias, Init init);
  void forward(const Context& ctx, const Tensor& y, const Tensor& x);
  /// linear_gelu_forward().
  void forward_gelu(const Context& ctx, GeluForm form, const Tensor& y, const Tensor& z,
                    const Tensor& x);
  /// `accumulate` says whether dx is overwritten (the rule) or added to.
  void backward(const Context& ctx, const Tensor& dx, const Tensor& dy,
                Accumulate accumulate = Accumulate::overwrite);
  /// Where the input was gelu(z): dz instead of the gradient of the input.
  void backward_gelu(const Context& ctx, GeluForm form, const Tensor& dz, const Tensor& dy,
                     const Tensor& z);
  void set_operand_hook(OperandHook* hook) { hook_ = hook; }

 private:
  std::string input_name_;
  OperandHook* hook_ = nullptr;
  Parameter weight_, bias_;  // bias_ has empty slots without a bias
  Tensor input_;
};

}  // namespace quietformer
