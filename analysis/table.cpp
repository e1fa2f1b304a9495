#include "analysis/table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace quietformer {
namespace {

// Columns that a terminal uses for UTF-8 text, near enough: one per code point.
std::size_t display_width(const std::string& text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

}  // namespace

std::string Table::text() const {
  std::vector<std::size_t> widths;
  for (const auto& row : rows_) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t c = 0; c < row.size(); ++c)
      widths[c] = std::max(widths[c], display_width(row[c]));
  }
  std::size_t total = 0;
  for (std::size_t width : widths) total += width + 2;
  std::string text;
  for (std::size_t r = 0; r < rows_.size(); ++r) {
    std::string line;
    for (std::size_t c = 0; c < rows_[r].size(); ++c) {
      const std::string pad(widths[c] - display_width(rows_[r][c]), ' ');
      line += (c > 0 ? "  " + pad : "") + rows_[r][c] + (c == 0 ? pad : "");
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
    if (r == 0 && total > 2) text += std::string(total - 2, '-') + "\n";
  }
  return text;
}

std::string short_number(double value) {
  if (!std::isfinite(value)) return "-";
  const double size = std::abs(value);
  if (size < 1e7 && (size >= 1e3 || value == std::floor(value)))
    return fmt::format("{:.0f}", value);
  return fmt::format("{:.4g}", value);
}

}  // namespace quietformer
