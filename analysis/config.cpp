#include "analysis/config.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/check.h"

namespace quietformer {

void AnalysisConfig::validate() const {
  if (every < 0)
    throw InputError(
        fmt::format("analysis.every: found {}, expected a number of steps (0 = off)", every));
  for (const std::string& site : sites) {
    const bool good = !site.empty() && std::all_of(site.begin(), site.end(), [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
             c == '.' || c == '_' || c == '-' || c == '*';
    });
    if (!good)
      throw InputError(fmt::format(
          "analysis.sites: found '{}', expected a pattern such as blocks.*.mlp.output", site));
  }
}

}  // namespace quietformer
