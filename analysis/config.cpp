#include "analysis/config.h"

#include <fmt/format.h>

#include <algorithm>

#include "analysis/glob.h"
#include "core/check.h"

namespace quietformer {

void AnalysisConfig::validate() const {
  if (every < 0)
    throw InputError(
        fmt::format("analysis.every: found {}, expected a number of steps (0 = off)", every));
  if (final_sequences < 0)
    throw InputError(
        fmt::format("analysis.final_sequences: found {}, expected a number of sequences (0 = none)",
                    final_sequences));
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

bool AnalysisConfig::selects(std::string_view name) const {
  return std::any_of(sites.begin(), sites.end(),
                     [name](const std::string& site) { return glob_matches(site, name); });
}

}  // namespace quietformer
