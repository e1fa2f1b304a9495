// Linear: y = x W^T + b.
#pragma once

#include <cstdint>
#include <string>

#include "core/gemm.h"
#include "layers/layer.h"

namespace quietformer {

/// y (..., out) = x (..., in) weight^T + bias; weight (out, in) row-major, bias (out) or absent.
/// Contiguous, except that x and y of rank 2 may have any row stride. Nothing aliases.
void linear_forward(const Context& ctx, const Tensor& y, const Tensor& x, const Tensor& weight,
                    const Tensor& bias);

/// dx = dy weight: overwritten, or added to. dx (..., in), dy (..., out); dx does not alias dy.
void linear_backward_input(const Context& ctx, const Tensor& dx, const Tensor& dy,
                           const Tensor& weight, Accumulate accumulate = Accumulate::overwrite);

/// d_weight += dy^T x; d_bias += column sums of dy, where present.
void linear_backward_parameters(const Context& ctx, const Tensor& d_weight, const Tensor& d_bias,
                                const Tensor& dy, const Tensor& x);

enum class Bias : std::uint8_t { no, yes };

/// Parameters `path.weight` (out, in) and, with a bias, `path.bias` (out), which starts at zero.
/// The input must stay unchanged until backward.
class Linear {
 public:
  Linear(ParameterList& parameters, const std::string& path, std::int64_t in, std::int64_t out,
         Bias bias, Init init);
  void forward(const Context& ctx, const Tensor& y, const Tensor& x);
  /// `accumulate` says whether dx is overwritten (the rule) or added to.
  void backward(const Context& ctx, const Tensor& dx, const Tensor& dy,
                Accumulate accumulate = Accumulate::overwrite);

 private:
  Parameter weight_, bias_;  // bias_ has empty slots without a bias
  Tensor input_;
};

}  // namespace quietformer
