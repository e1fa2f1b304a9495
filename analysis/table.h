// Aligned columns of text.
#pragma once

#include <string>
#include <vector>

namespace quietformer {

class Table {
 public:
  /// The first row is the header.
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  /// First column flush left, the others flush right, two blanks apart, a rule below the header.
  std::string text() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

/// About four significant digits, "-" for what is not finite: "0.01234", "48.62", "12346",
/// "1.204e+07".
std::string short_number(double value);

}  // namespace quietformer
