// A comparison as one HTML file that opens offline: page, style and scripts of analysis/report and
// the charting library are part of the program.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "analysis/variants.h"

namespace quietformer {

/// Why this build cannot make the page; empty when it can. For users.
std::string why_no_report();

/// The page, UTF-8. Curves are thinned (thin()) so that all of them together are some megabytes.
std::string report_page(const Comparison& comparison);

/// The page's data as JSON that may stand in an HTML script element. What it holds is read by
/// analysis/report/data.js.
std::string report_data(const Comparison& comparison);

/// Which points of a curve to keep so that it looks the same: at most `most` (at least 2) indices,
/// increasing, first and last among them. Of each of most - 2 stretches of equal length, the point
/// that spans the largest triangle with the point kept before and the mean of the next stretch
/// (Steinarsson 2013, "Downsampling time series for visual representation").
std::vector<std::size_t> thin(std::span<const std::int64_t> steps, std::span<const double> values,
                              std::size_t most);

/// The page around its data; empty where the build has none. Generated (cmake/EmbedReport.cmake).
struct ReportTemplate {
  std::string_view before, after;
};
ReportTemplate report_template();

}  // namespace quietformer
