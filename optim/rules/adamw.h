// AdamW (Loshchilov and Hutter, "Decoupled weight decay regularization", 2019) with the conventions
// of torch.optim.AdamW: decay first, bias corrections, eps added to the corrected root.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <string_view>

#include "core/dtype.h"
#include "optim/config.h"

namespace quietformer::rules::adamw {

struct Rule {
  static constexpr std::array<std::string_view, 2> kState{"m", "v"};

  template <class T>
  struct Update {
    T keep, one_minus_beta1, beta2, one_minus_beta2, step_size, root_scale, eps;

    QF_HOST_DEVICE Update(const RuleConstants& constants, double lr, double step,
                          double weight_decay)
        : keep(T(1 - lr * weight_decay)),
          one_minus_beta1(T(1 - constants.beta1)),
          beta2(T(constants.beta2)),
          one_minus_beta2(T(1 - constants.beta2)),
          step_size(T(lr / (1 - std::pow(constants.beta1, step + 1)))),
          root_scale(T(1 / std::sqrt(1 - std::pow(constants.beta2, step + 1)))),
          eps(T(constants.eps)) {}

    QF_HOST_DEVICE void operator()(T& value, T grad, T& m, T& v) const {
      m += one_minus_beta1 * (grad - m);
      v = beta2 * v + one_minus_beta2 * grad * grad;
      value = keep * value - step_size * m / (std::sqrt(v) * root_scale + eps);
    }
  };
};

}  // namespace quietformer::rules::adamw
