// A configuration of the statistics.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "analysis/config.h"

namespace quietformer::test {

inline AnalysisConfig config_for(std::vector<std::string> sites, bool per_head = false) {
  AnalysisConfig config;
  config.sites = std::move(sites);
  config.per_head = per_head;
  config.validate();
  return config;
}

}  // namespace quietformer::test
