// LayerNorm (Ba, Kiros, Hinton, arXiv 1607.06450), RMSNorm (Zhang, Sennrich, arXiv 1910.07467) and
// plain l2 normalisation, all over the last dimension.
//
//   layernorm  y = (x - mean) rstd * weight + bias   rstd = 1 / sqrt(mean((x - mean)^2) + eps)
//   rmsnorm    y = x rstd * weight                   rstd = 1 / sqrt(mean(x^2) + eps)
//   l2         y = x rstd                            rstd = 1 / max(|x|, eps)
#pragma once

#include <cstdint>
#include <string>

#include "core/gemm.h"
#include "layers/dropout.h"
#include "layers/layer.h"
#include "layers/model_config.h"

namespace quietformer {

/// What forward leaves for backward, one value per row; absent when no backward follows.
/// l2 and rmsnorm have no mean.
struct NormStatistics {
  Tensor mean, rstd;
};

/// y and x: rank 2 (rows, C) or rank 3 (rows, heads, C), any strides but a unit inner one, so that
/// the heads inside packed qkv rows can be normalised in place; other ranks must be contiguous.
/// y may alias x exactly. weight, bias and their gradients are (C); absent means 1 and 0. They and
/// the statistics have the accumulation type of x.
void norm_forward(const Context& ctx, NormKind kind, const Tensor& y, const NormStatistics& saved,
                  const Tensor& x, const Tensor& weight, const Tensor& bias, double eps);

/// dx is overwritten (then it may alias dy) or added to. x is forward's input, unchanged.
void norm_backward_input(const Context& ctx, NormKind kind, const Tensor& dx, const Tensor& dy,
                         const Tensor& x, const NormStatistics& saved, const Tensor& weight,
                         double eps, Accumulate accumulate = Accumulate::overwrite);

/// d_weight (C) += sum over rows of dy * normalised x; d_bias (C) += sum of dy. Absent ones are
/// left out. dy must be as it was before norm_backward_input wrote over it.
void norm_backward_parameters(const Context& ctx, NormKind kind, const Tensor& d_weight,
                              const Tensor& d_bias, const Tensor& dy, const Tensor& x,
                              const NormStatistics& saved);

/// norm_backward_parameters(), then norm_backward_input(); on a GPU in one pass where rows are
/// contiguous and up to 1024 long.
void norm_backward(const Context& ctx, NormKind kind, const Tensor& dx, const Tensor& d_weight,
                   const Tensor& d_bias, const Tensor& dy, const Tensor& x,
                   const NormStatistics& saved, const Tensor& weight, double eps,
                   Accumulate accumulate = Accumulate::overwrite);

/// A sum that a norm reads next: sum = alpha * x + gain * drop(branch), as residual_forward() and
/// dropout_apply() make it. All (B,T,C), contiguous; sum may alias x or branch. Whether branch is
/// itself dropped afterwards is not said.
struct Join {
  Tensor x, branch, sum;
  double alpha = 1;
  Tensor gain;  // (C) or absent
  Dropout dropout;
};

/// join.sum, and y = norm(join.sum); on a GPU in one pass where rows are up to 1024 long.
void join_norm_forward(const Context& ctx, NormKind kind, const Tensor& y,
                       const NormStatistics& saved, const Join& join, const Tensor& weight,
                       const Tensor& bias, double eps);

/// Parameters `path.weight` (starts at 1) and, for layernorm, `path.bias` (starts at 0); l2 has
/// none. The input must stay unchanged until backward.
class Norm {
 public:
  Norm(ParameterList& parameters, std::string path, NormKind kind, std::int64_t dim, double eps);
  /// `rows`: how many vectors of `dim` one call normalises at most.
  void declare(Arena& arena, std::int64_t rows, Purpose purpose);
  void forward(const Context& ctx, const Tensor& y, const Tensor& x);
  /// The same of join.sum, which it writes.
  void forward(const Context& ctx, const Tensor& y, const Join& join);
  /// Overwriting, dx may alias dy.
  void backward(const Context& ctx, const Tensor& dx, const Tensor& dy,
                Accumulate accumulate = Accumulate::overwrite);

 private:
  NormStatistics saved(std::int64_t rows) const;

  std::string path_;
  NormKind kind_;
  double eps_;
  DType dtype_;  // of parameters and statistics
  Parameter weight_, bias_;
  Slot mean_, rstd_;
  Tensor input_;
};

}  // namespace quietformer
