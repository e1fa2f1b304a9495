#include "optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/check.h"

namespace quietformer {

const std::vector<std::string_view>& schedule_types() {
  static const std::vector<std::string_view> types{"constant", "linear", "cosine"};
  return types;
}

Schedule::Schedule(const OptimConfig& config, std::int64_t steps)
    : lr_(config.lr),
      final_(config.schedule.final),
      warmup_(config.schedule.warmup),
      steps_(steps) {
  const auto& types = schedule_types();  // in the order of Type
  const auto found = std::find(types.begin(), types.end(), config.schedule.type);
  QF_EXPECTS(found != types.end());
  type_ = static_cast<Type>(found - types.begin());
}

double Schedule::lr(std::int64_t step) const {
  if (step < warmup_) return lr_ * static_cast<double>(step + 1) / static_cast<double>(warmup_);
  const double length = static_cast<double>(std::max<std::int64_t>(steps_ - warmup_, 1));
  const double x = std::min(static_cast<double>(step - warmup_) / length, 1.0);
  switch (type_) {
    case Type::constant:
      return lr_;
    case Type::linear:
      return lr_ * (final_ + (1 - final_) * (1 - x));
    case Type::cosine:
      return lr_ * (final_ + (1 - final_) * 0.5 * (1 + std::cos(std::numbers::pi * x)));
  }
  return lr_;
}

}  // namespace quietformer
