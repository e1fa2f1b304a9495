#include "analysis/final_statistics.h"

#include <algorithm>
#include <cmath>

#include "analysis/glob.h"
#include "analysis/site_cut.h"
#include "core/math.h"
#include "core/parallel.h"

namespace quietformer {
namespace {

constexpr std::int64_t kStretch = 16 * 1024;  // numbers per task
constexpr std::string_view kHidden = "blocks.*.output";

/// NaN stays.
void raise(double& maximum, double value) {
  if (!(value <= maximum) && maximum == maximum) maximum = value;
}

}  // namespace

void FinalStatistics::begin_batch(const Tensor& validity) {
  validity_ = validity;
  host_validity_ = {};
}

bool FinalStatistics::wants(std::string_view name) const {
  return glob_matches(kHidden, name) || (mass_suffix(name).empty() && config_.selects(name));
}

FinalStatistics::Site& FinalStatistics::site_of(std::string_view name, const Shape& shape) {
  const auto found = index_.find(name);
  const auto tokens = static_cast<std::size_t>(shape[1]),
             channels = static_cast<std::size_t>(shape[2]);
  if (found != index_.end()) {
    Site& site = sites_[found->second];
    QF_EXPECTS(site.channel_sums.size() == channels);
    if (site.token_sums.size() < tokens) {
      site.token_sums.resize(tokens);
      site.token_sequences.resize(tokens);
    }
    return site;
  }
  index_.emplace(std::string(name), sites_.size());
  Site& site = sites_.emplace_back();
  site.name = name;
  site.selected = config_.selects(name);
  site.hidden = glob_matches(kHidden, name);
  site.token_sums.resize(tokens);
  site.token_sequences.resize(tokens);
  site.channel_sums.resize(channels);
  site.outliers.resize(channels);
  return site;
}

void FinalStatistics::record(const Context& ctx, std::string_view name, const Tensor& value) {
  if (!wants(name)) return;
  QF_EXPECTS(value.shape.rank == 3 && value.count() > 0 && value.contiguous());
  Site& site = site_of(name, value.shape);
  const Tensor host = copy_.of(ctx, value);
  if (validity_ && !host_validity_) host_validity_ = validity_copy_.of(ctx, validity_);
  const std::int64_t tokens = value.shape[1], channels = value.shape[2];
  QF_EXPECTS(!host_validity_ || host_validity_.shape == (Shape{value.shape[0], tokens}));
  token_maxima_.resize(static_cast<std::size_t>(tokens));
  dispatch_floating(host.dtype, [&]<class T>() {
    for (std::int64_t b = 0; b < value.shape[0]; ++b)
      add_sequence(ctx, site, host.as<T>() + b * tokens * channels,
                   host_validity_ ? host_validity_.as<std::uint8_t>() + b * tokens : nullptr);
  });
}

template <class T>
void FinalStatistics::add_sequence(const Context& ctx, Site& site, const T* values,
                                   const std::uint8_t* valid) {
  const auto tokens = static_cast<std::int64_t>(token_maxima_.size());
  const auto channels = static_cast<std::int64_t>(site.channel_sums.size());
  const std::int64_t grain = std::max<std::int64_t>(1, kStretch / channels);
  const std::int64_t count = (tokens + grain - 1) / grain;
  const auto is_valid = [valid](std::int64_t t) { return valid == nullptr || valid[t] != 0; };
  stretches_.resize(static_cast<std::size_t>(count));
  parallel_chunks(ctx, count, [&](std::int64_t index, int) {
    Stretch& stretch = stretches_[static_cast<std::size_t>(index)];
    stretch.histogram = {};
    stretch.channel_maxima.assign(static_cast<std::size_t>(channels), 0);
    stretch.outliers.assign(static_cast<std::size_t>(channels), 0);
    for (std::int64_t t = index * grain; t < std::min(tokens, (index + 1) * grain); ++t) {
      double& maximum = token_maxima_[static_cast<std::size_t>(t)] = 0;
      if (!is_valid(t)) continue;
      for (std::int64_t c = 0; c < channels; ++c) {
        const double magnitude = std::abs(static_cast<double>(values[t * channels + c]));
        stretch.histogram.add(magnitude);
        raise(maximum, magnitude);
        raise(stretch.channel_maxima[static_cast<std::size_t>(c)], magnitude);
        if (magnitude > OutlierDimensions::kMagnitude)
          ++stretch.outliers[static_cast<std::size_t>(c)];
      }
    }
  });
  std::int64_t positions = 0;
  for (std::int64_t t = 0; t < tokens; ++t) {
    if (!is_valid(t)) continue;
    const auto at = static_cast<std::size_t>(t);
    site.token_sums[at] += token_maxima_[at];
    ++site.token_sequences[at];
    ++positions;
  }
  if (positions == 0) return;
  site.positions += positions;
  ++site.sequences;
  for (std::size_t c = 0; c < site.channel_sums.size(); ++c) {
    double maximum = 0;
    for (const Stretch& stretch : stretches_) {
      raise(maximum, stretch.channel_maxima[c]);
      site.outliers[c] += stretch.outliers[c];
    }
    site.channel_sums[c] += maximum;
  }
  for (const Stretch& stretch : stretches_) site.histogram.merge(stretch.histogram);
}

void FinalStatistics::record_attention(const Context& ctx, std::string_view layer,
                                       const AttentionProblem& problem) {
  if (validity_ && !host_validity_) host_validity_ = validity_copy_.of(ctx, validity_);
  attention_.add(ctx, layer, problem, host_validity_);
}

OutlierDimensions FinalStatistics::outliers() const {
  OutlierDimensions found;
  std::int64_t positions = 0;
  for (const Site& site : sites_) {
    if (!site.hidden || site.positions == 0) continue;
    ++found.layers;
    positions += site.positions;
    found.channel_layers.resize(site.outliers.size());
    found.channel_positions.resize(site.outliers.size());
    for (std::size_t c = 0; c < site.outliers.size(); ++c) {
      found.channel_layers[c] += site.outliers[c] > 0 ? 1 : 0;
      found.channel_positions[c] += static_cast<double>(site.outliers[c]);
    }
  }
  for (std::size_t c = 0; c < found.channel_positions.size(); ++c) {
    found.channel_positions[c] /= static_cast<double>(positions);
    const double layers =
        static_cast<double>(found.channel_layers[c]) / static_cast<double>(found.layers);
    if (layers >= OutlierDimensions::kLayers &&
        found.channel_positions[c] >= OutlierDimensions::kPositions)
      found.channels.push_back(static_cast<std::int64_t>(c));
  }
  return found;
}

FinalResults FinalStatistics::results() const {
  const auto mean = [](double sum, std::int64_t count) {
    return count > 0 ? sum / static_cast<double>(count) : math::kNaN<double>;
  };
  FinalResults results;
  for (const Site& site : sites_) {
    results.sequences = std::max(results.sequences, site.sequences);
    if (!site.selected) continue;
    FinalSite& final = results.sites.emplace_back();
    final.site = site.name;
    final.histogram = site.histogram;
    for (std::size_t t = 0; t < site.token_sums.size(); ++t)
      final.norm_by_token.push_back(mean(site.token_sums[t], site.token_sequences[t]));
    for (const double sum : site.channel_sums)
      final.norm_by_channel.push_back(mean(sum, site.sequences));
  }
  results.outliers = outliers();
  results.attention = attention_.profiles();
  return results;
}

}  // namespace quietformer
