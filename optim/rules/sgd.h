// Gradient descent with momentum, as torch.optim.SGD without dampening: the decay is part of the
// gradient, and the momentum is a plain sum, momentum * buffer + gradient.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "core/dtype.h"
#include "optim/config.h"

namespace quietformer::rules::sgd {

struct Rule {
  static constexpr std::array<std::string_view, 1> kState{"momentum"};

  template <class T>
  struct Update {
    T lr, momentum, decay;

    QF_HOST_DEVICE Update(const RuleConstants& constants, double lr_, double, double weight_decay)
        : lr(T(lr_)), momentum(T(constants.beta1)), decay(T(weight_decay)) {}

    QF_HOST_DEVICE void operator()(T& value, T grad, T& buffer) const {
      buffer = momentum * buffer + (grad + decay * value);
      value -= lr * buffer;
    }
  };
};

}  // namespace quietformer::rules::sgd
