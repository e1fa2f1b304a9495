// Finished runs side by side, as text: analysis/report.h makes a page of the same comparison.
#pragma once

#include <string>

#include "analysis/variants.h"

namespace quietformer {

/// For a terminal: a column per variant, a row per metric; behind the first variant's column, the
/// difference to it; the deviation where a variant has several runs.
std::string comparison_table(const Comparison& comparison);

/// docs/compare.md describes it.
std::string comparison_json(const Comparison& comparison);

/// One row per metric and variant, RFC 4180: metric, unit, better, variant, runs, mean, deviation,
/// delta. Empty where a number is not known.
std::string comparison_csv(const Comparison& comparison);

/// The summary without single families of sites, best in bold, and the config differences.
std::string comparison_markdown(const Comparison& comparison);

}  // namespace quietformer
