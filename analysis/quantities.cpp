#include "analysis/quantities.h"

#include <cmath>
#include <vector>

#include "core/math.h"

namespace quietformer {
namespace {

using Kind = Quantity::Kind;

constexpr Quantity kSamples{"n_samples", "samples (sequences) seen", Kind::count};
constexpr Quantity kKurtosis{"kurtosis", "excess kurtosis, average over samples"};
constexpr Quantity kSkewness{"skewness", "skewness, average over samples"};
constexpr Quantity kVariance{"variance", "population variance, average over samples"};
constexpr Quantity kMean{"mean", "mean, average over samples"};
constexpr Quantity kMaxAbs{"max_abs", "largest absolute value"};
constexpr Quantity kInfinityNorm{"infinity_norm", "largest absolute value, average over samples"};
constexpr Quantity kValues{"n_values", "numbers seen", Kind::count};
constexpr Quantity kOutliers{"outliers_6", "numbers x with |x| > 6", Kind::count};
constexpr Quantity kSigmaOutliers{
    "outliers_6_sigma",
    "numbers beyond 6 sigma of the previous logged step's mean (not known in the first)",
    Kind::count};
constexpr Quantity kPooledKurtosis{"pooled/kurtosis", "excess kurtosis of all numbers together"};
constexpr Quantity kPooledSkewness{"pooled/skewness", "skewness of all numbers together"};
constexpr Quantity kPooledVariance{"pooled/variance",
                                   "population variance of all numbers together"};
constexpr Quantity kPooledMean{"pooled/mean", "mean of all numbers together"};
constexpr Quantity kHeadKurtosis{"per_head/kurtosis",
                                 "excess kurtosis per head, average over samples", Kind::by_head};
constexpr Quantity kHeadVariance{
    "per_head/variance", "population variance per head, average over samples", Kind::by_head};
constexpr Quantity kHeadMean{"per_head/mean", "mean per head, average over samples", Kind::by_head};
constexpr Quantity kHeadMaxAbs{"per_head/max_abs", "largest absolute value per head",
                               Kind::by_head};
constexpr Quantity kHeadInfinityNorm{"per_head/infinity_norm",
                                     "largest absolute value per head, average over samples",
                                     Kind::by_head};

constexpr Quantity kWeights{"n_weights", "numbers in the tensor", Kind::count};
constexpr Quantity kWeightKurtosis{"kurtosis", "excess kurtosis of the tensor"};
constexpr Quantity kWeightSkewness{"skewness", "skewness of the tensor"};
constexpr Quantity kWeightVariance{"variance", "population variance of the tensor"};
constexpr Quantity kWeightMean{"mean", "mean of the tensor"};
constexpr Quantity kWeightOutliers{"outliers_6_sigma",
                                   "numbers beyond 6 sigma of the tensor's own mean", Kind::count};

// One value as a span, for the duration of the call.
struct Scalars {
  const QuantityVisitor& visit;
  void operator()(const Quantity& quantity, double value) const { visit(quantity, {&value, 1}); }
  void operator()(const Quantity& quantity, std::int64_t value) const {
    (*this)(quantity, static_cast<double>(value));
  }
};

template <class ValueOfHead>
void visit_heads(const SiteStatistics& site, const QuantityVisitor& visit, const Quantity& quantity,
                 ValueOfHead&& value) {
  if (site.heads.empty()) return;
  std::vector<double> values;
  for (const SampleSums& head : site.heads) values.push_back(value(head));
  visit(quantity, values);
}

}  // namespace

void visit_quantities(const SiteStatistics& site, const QuantityVisitor& visit) {
  const SampleSums& all = site.all;
  const Moments& pooled = all.pooled;
  if (all.samples == 0) return;
  const auto averages = [&](double SampleSums::*sum) {
    return [sum](const SampleSums& sums) { return sums.average(sum); };
  };
  const Scalars scalar{visit};
  scalar(kSamples, all.samples);
  if (site.kind == SiteKind::mass) {
    scalar(kMean, all.average(&SampleSums::mean));
    visit_heads(site, visit, kHeadMean, averages(&SampleSums::mean));
    return;
  }
  scalar(kKurtosis, all.average(&SampleSums::kurtosis));
  scalar(kSkewness, all.average(&SampleSums::skewness));
  scalar(kVariance, all.average(&SampleSums::variance));
  scalar(kMean, all.average(&SampleSums::mean));
  scalar(kMaxAbs, pooled.max_abs);
  scalar(kInfinityNorm, all.average(&SampleSums::infinity_norm));
  scalar(kValues, pooled.count);
  scalar(kOutliers, pooled.beyond_magnitude);
  scalar(kSigmaOutliers,
         site.has_reference ? static_cast<double>(pooled.outside) : math::kNaN<double>);
  scalar(kPooledKurtosis, pooled.kurtosis());
  scalar(kPooledSkewness, pooled.skewness());
  scalar(kPooledVariance, pooled.variance());
  scalar(kPooledMean, pooled.mean);
  visit_heads(site, visit, kHeadKurtosis, averages(&SampleSums::kurtosis));
  visit_heads(site, visit, kHeadVariance, averages(&SampleSums::variance));
  visit_heads(site, visit, kHeadMean, averages(&SampleSums::mean));
  visit_heads(site, visit, kHeadMaxAbs, [](const SampleSums& s) { return s.pooled.max_abs; });
  visit_heads(site, visit, kHeadInfinityNorm, averages(&SampleSums::infinity_norm));
}

void visit_quantities(const WeightStatistics& weight, const QuantityVisitor& visit) {
  const Moments& m = weight.moments;
  const Scalars scalar{visit};
  scalar(kWeights, m.count);
  scalar(kWeightKurtosis, m.kurtosis());
  scalar(kWeightSkewness, m.skewness());
  scalar(kWeightVariance, m.variance());
  scalar(kWeightMean, m.average());
  scalar(kMaxAbs, m.max_abs);
  scalar(kWeightOutliers, m.outside);
}

}  // namespace quietformer
