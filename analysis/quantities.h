// The numbers that results.json, stats.h5 and the tables hold for a site or a parameter, listed in
// one place.
#pragma once

#include <functional>
#include <span>
#include <string_view>

#include "analysis/activation_statistics.h"
#include "analysis/weight_statistics.h"

namespace quietformer {

struct Quantity {
  std::string_view name;  // a '/' nests: "pooled/kurtosis"
  std::string_view meaning;
  enum class Kind : std::uint8_t {
    real,
    count,    // a whole number; NaN = not known
    by_head,  // reals, one per head
  } kind = Kind::real;
};

using QuantityVisitor = std::function<void(const Quantity&, std::span<const double>)>;

/// Calls visit(quantity, values) for each; nothing for a site without samples.
void visit_quantities(const SiteStatistics& site, const QuantityVisitor& visit);
void visit_quantities(const WeightStatistics& weight, const QuantityVisitor& visit);

}  // namespace quietformer
