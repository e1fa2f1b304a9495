// Lion (Chen et al., "Symbolic discovery of optimization algorithms", 2023, algorithm 2): the sign
// of an interpolation between momentum and gradient, with decoupled decay.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "core/dtype.h"
#include "optim/config.h"

namespace quietformer::rules::lion {

struct Rule {
  static constexpr std::array<std::string_view, 1> kState{"m"};

  template <class T>
  struct Update {
    T lr, keep, one_minus_beta1, one_minus_beta2;

    QF_HOST_DEVICE Update(const RuleConstants& constants, double lr_, double, double weight_decay)
        : lr(T(lr_)),
          keep(T(1 - lr_ * weight_decay)),
          one_minus_beta1(T(1 - constants.beta1)),
          one_minus_beta2(T(1 - constants.beta2)) {}

    QF_HOST_DEVICE void operator()(T& value, T grad, T& m) const {
      const T direction = m + one_minus_beta1 * (grad - m);
      const T sign = direction > T(0) ? T(1) : (direction < T(0) ? T(-1) : T(0));
      value = keep * value - lr * sign;
      m += one_minus_beta2 * (grad - m);
    }
  };
};

}  // namespace quietformer::rules::lion
