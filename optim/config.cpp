#include "optim/config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"

namespace quietformer {
namespace {

// eps below this vanishes in fp32, and a parameter whose gradient is zero becomes 0 / 0.
constexpr double kSmallestEps = 1e-30;

template <class T>
void require(bool good, std::string_view key, const T& found, std::string_view expected) {
  if (!good) throw InputError(fmt::format("optim.{}: found {}, expected {}", key, found, expected));
}

template <class Names>
void require_word(const Names& known, std::string_view key, const std::string& found) {
  require(std::find(known.begin(), known.end(), found) != known.end(), key,
          fmt::format("'{}'", found), fmt::format("one of {}", fmt::join(known, ", ")));
}

}  // namespace

void OptimConfig::validate() const {
  // Written so that NaN fails every test.
  require_word(optimizer_rules(), "type", type);
  require(lr >= 0 && std::isfinite(lr), "lr", lr, "a number of at least 0");
  for (double beta : betas)
    require(beta >= 0 && beta < 1, "betas", fmt::format("[{}, {}]", betas[0], betas[1]),
            "two numbers from 0 to below 1");
  require(eps >= kSmallestEps && std::isfinite(eps), "eps", eps, "a number of at least 1e-30");
  require(weight_decay >= 0 && std::isfinite(weight_decay), "weight_decay", weight_decay,
          "a number of at least 0");
  require(clip >= 0 && std::isfinite(clip), "clip", clip, "a number of at least 0 (0 = off)");
  require_word(schedule_types(), "schedule.type", schedule.type);
  require(schedule.warmup >= 0, "schedule.warmup", schedule.warmup, "a number of steps");
  require(schedule.final >= 0 && schedule.final <= 1, "schedule.final", schedule.final,
          "a number from 0 to 1");
}

}  // namespace quietformer
