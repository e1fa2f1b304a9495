// Learning rate over time.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "optim/config.h"

namespace quietformer {

/// The values of `optim.schedule.type`.
const std::vector<std::string_view>& schedule_types();

/// With w warm-up steps and s steps in all, step t counted from 0:
///   t < w   lr (t + 1) / w
///   else    lr f(x), x = (t - w) / (s - w), where
///             constant  f = 1
///             linear    f = final + (1 - final) (1 - x)
///             cosine    f = final + (1 - final) (1 + cos(pi x)) / 2
/// and x stays 1 after the end. A warm-up longer than the run is simply cut off.
class Schedule {
 public:
  /// `config` is valid (OptimConfig::validate).
  Schedule(const OptimConfig& config, std::int64_t steps);
  double lr(std::int64_t step) const;

 private:
  enum class Type : std::uint8_t { constant, linear, cosine };
  Type type_;
  double lr_;
  double final_;
  std::int64_t warmup_;
  std::int64_t steps_;
};

}  // namespace quietformer
