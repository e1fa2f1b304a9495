#include "analysis/activation_statistics.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "analysis/glob.h"
#include "analysis/gpu_sites.h"
#include "analysis/site_cut.h"
#include "core/math.h"
#include "core/parallel.h"

namespace quietformer {
namespace {

constexpr double kSigmas = 6;
constexpr std::int64_t kChunk = 32 * 1024;                      // numbers per task
constexpr std::string_view kMean = "/mean", kSigma = "/sigma";  // of names in state()
constexpr std::string_view kContext = "attention.context";
constexpr std::string_view kMasses[] = {"attention.sink_mass", "attention.row_sum"};

// "blocks.3." of "blocks.3.attention.sink_mass", and whether the name ends in `suffix`.
bool ends_in(std::string_view name, std::string_view suffix) {
  return name.ends_with(suffix) &&
         (name.size() == suffix.size() || name[name.size() - suffix.size() - 1] == '.');
}

}  // namespace

std::string_view mass_suffix(std::string_view name) {
  for (std::string_view mass : kMasses)
    if (ends_in(name, mass)) return mass;
  return {};
}

void SampleSums::add(const Moments& sample) {
  if (sample.count == 0) return;
  ++samples;
  kurtosis += sample.kurtosis();
  skewness += sample.skewness();
  variance += sample.variance();
  mean += sample.mean;
  infinity_norm += sample.max_abs;
  pooled.merge(sample);
}

void SampleSums::merge(const SampleSums& other) {
  samples += other.samples;
  kurtosis += other.kurtosis;
  skewness += other.skewness;
  variance += other.variance;
  mean += other.mean;
  infinity_norm += other.infinity_norm;
  pooled.merge(other.pooled);
}

double SampleSums::average(double SampleSums::*sum) const {
  return samples > 0 ? this->*sum / static_cast<double>(samples) : math::kNaN<double>;
}

ActivationStatistics::ActivationStatistics(const AnalysisConfig& config, std::int64_t heads)
    : config_(config), heads_(heads) {
  QF_EXPECTS(heads >= 1);
}

ActivationStatistics::~ActivationStatistics() = default;

void ActivationStatistics::begin_step() {
  recording_ = true;
  validity_ = {};
  ++batch_;
  if (gpu_) {
    limits_.clear();
    for (std::size_t i = 0; i < current_.size(); ++i) limits_.push_back(limits_of(i));
    gpu_->begin_step(limits_);
  }
  for (std::size_t i = 0; i < current_.size(); ++i) {
    current_[i].all = {};
    std::fill(current_[i].heads.begin(), current_[i].heads.end(), SampleSums());
    current_[i].has_reference = reference_[i]->sigma >= 0;
  }
}

void ActivationStatistics::begin_batch(const Tensor& validity) {
  QF_EXPECTS(!validity ||
             (validity.dtype == DType::u8 && validity.shape.rank == 2 && validity.contiguous()));
  ++batch_;
  validity_ = validity;
  if (gpu_) gpu_->add_samples();
}

void ActivationStatistics::end_batches() {
  if (gpu_) gpu_->send();
}

void ActivationStatistics::repeat_batch() {
  QF_EXPECTS(recording_ && gpu_);
  gpu_->repeat();
}

std::shared_ptr<const int> ActivationStatistics::recorded_layout() const {
  return gpu_ ? gpu_->layout() : nullptr;
}

void ActivationStatistics::read_gpu() {
  if (gpu_) gpu_->read(current_);
}

void ActivationStatistics::end_step() {
  QF_EXPECTS(recording_);
  read_gpu();
  recording_ = false;
  validity_ = {};
  for (std::size_t i = 0; i < current_.size(); ++i) {
    latest_[i] = current_[i];
    const Moments& pooled = current_[i].all.pooled;
    if (pooled.count == 0) continue;
    const double sigma = std::sqrt(pooled.variance());
    *reference_[i] = std::isfinite(sigma) ? Reference{pooled.mean, sigma} : Reference();
  }
}

bool ActivationStatistics::wants(std::string_view name) const {
  if (!recording_) return false;
  if (index_.find(name) != index_.end() || config_.selects(name)) return true;
  const std::string_view mass = mass_suffix(name);
  std::array<char, 256> context;  // the layer's attention.context; no allocation for the unwanted
  if (mass.empty() || name.size() + kContext.size() > context.size()) return false;
  const std::size_t prefix = name.size() - mass.size();
  name.copy(context.data(), prefix);
  kContext.copy(context.data() + prefix, kContext.size());
  return config_.selects({context.data(), prefix + kContext.size()});
}

std::size_t ActivationStatistics::add_site(std::string_view name, SiteKind kind,
                                           std::size_t heads) {
  const auto found = index_.find(name);
  if (found != index_.end()) return found->second;
  const std::size_t index = current_.size();
  index_.emplace(std::string(name), index);
  SiteStatistics site;
  site.site = name;
  site.kind = kind;
  site.heads.resize(heads);
  reference_.push_back(&references_[site.site]);
  site.has_reference = reference_.back()->sigma >= 0;
  current_.push_back(site);
  latest_.push_back(std::move(site));
  last_batch_.push_back(-1);
  return index;
}

OutlierLimits ActivationStatistics::limits_of(std::size_t site) const {
  OutlierLimits limits;
  const Reference& reference = *reference_[site];
  if (reference.sigma >= 0) {
    limits.low = reference.mean - kSigmas * reference.sigma;
    limits.high = reference.mean + kSigmas * reference.sigma;
  }
  return limits;
}

void ActivationStatistics::record(const Context& ctx, std::string_view name, const Tensor& value) {
  if (!wants(name)) return;
  const SiteKind kind = mass_suffix(name).empty() ? SiteKind::activation : SiteKind::mass;
  const bool by_head = config_.per_head && ends_in(name, kContext);
  const SiteCut cut = cut_site(value, kind, by_head ? heads_ : 1, validity_);
  const bool heads = kind == SiteKind::mass || by_head;
  const std::size_t index = add_site(name, kind, heads ? static_cast<std::size_t>(cut.units) : 0);
  SiteStatistics& site = current_[index];
  QF_EXPECTS(site.heads.size() == (heads ? static_cast<std::size_t>(cut.units) : 0));
  if (last_batch_[index] == batch_) return;
  last_batch_[index] = batch_;
  if (ctx.device.type == DeviceType::cpu)
    return record_on_cpu(ctx, site, value, cut, limits_of(index));
  if (!gpu_) gpu_ = std::make_unique<GpuSites>();
  gpu_->record(ctx, index, value, cut, validity_, limits_of(index), heads);
}

void ActivationStatistics::record_on_cpu(const Context& ctx, SiteStatistics& site,
                                         const Tensor& value, const SiteCut& c,
                                         const OutlierLimits& limits) {
  const std::int64_t rows_per_chunk = std::max<std::int64_t>(1, kChunk / c.width);
  const std::int64_t chunks = (c.rows + rows_per_chunk - 1) / rows_per_chunk;
  const std::int64_t tasks = c.samples * c.units * chunks;
  if (partial_.size() < static_cast<std::size_t>(tasks))
    partial_.resize(static_cast<std::size_t>(tasks));
  dispatch_floating(value.dtype, [&]<class T>() {
    parallel_chunks(ctx, tasks, [&](std::int64_t task, int) {
      const std::int64_t chunk = task % chunks, unit = task / chunks % c.units;
      const std::int64_t sample = task / chunks / c.units, first = chunk * rows_per_chunk;
      ValueRows<T> rows;
      rows.data =
          value.as<T>() + sample * c.sample_stride + unit * c.unit_stride + first * c.stride;
      rows.rows = std::min(rows_per_chunk, c.rows - first);
      rows.width = c.width;
      rows.stride = c.stride;
      if (c.masked) rows.keep = validity_.as<std::uint8_t>() + sample * c.rows + first;
      partial_[static_cast<std::size_t>(task)] = moments_of(rows, limits);
    });
  });
  const Moments* part = partial_.data();
  for (std::int64_t sample = 0; sample < c.samples; ++sample) {
    Moments whole;
    for (std::int64_t unit = 0; unit < c.units; ++unit) {
      Moments head;
      for (std::int64_t chunk = 0; chunk < chunks; ++chunk) head.merge(*part++);
      if (!site.heads.empty()) site.heads[static_cast<std::size_t>(unit)].add(head);
      whole.merge(head);
    }
    site.all.add(whole);
  }
}

void ActivationStatistics::merge(ActivationStatistics& other) {
  QF_EXPECTS(recording_);
  read_gpu(), other.read_gpu();
  for (const SiteStatistics& theirs : other.current_) {
    SiteStatistics& ours = current_[add_site(theirs.site, theirs.kind, theirs.heads.size())];
    QF_EXPECTS(ours.heads.size() == theirs.heads.size());
    ours.all.merge(theirs.all);
    for (std::size_t h = 0; h < ours.heads.size(); ++h) ours.heads[h].merge(theirs.heads[h]);
  }
}

std::vector<std::string> ActivationStatistics::unmatched() const {
  std::vector<std::string> patterns;
  for (const std::string& pattern : config_.sites)
    if (std::none_of(current_.begin(), current_.end(),
                     [&](const SiteStatistics& site) { return glob_matches(pattern, site.site); }))
      patterns.push_back(pattern);
  return patterns;
}

std::vector<NamedValue> ActivationStatistics::state() const {
  std::vector<NamedValue> values;
  for (const auto& [site, reference] : references_) {
    if (reference.sigma < 0) continue;
    values.push_back({site + std::string(kMean), reference.mean});
    values.push_back({site + std::string(kSigma), reference.sigma});
  }
  return values;
}

void ActivationStatistics::restore(std::span<const NamedValue> state) {
  for (auto& [site, reference] : references_) reference = {};
  for (const NamedValue& value : state) {
    std::string_view site = value.name;
    const bool is_mean = site.ends_with(kMean);
    if (!is_mean && !site.ends_with(kSigma))
      throw InputError(
          fmt::format("state of the activation statistics: found '{}', expected "
                      "SITE{} or SITE{}",
                      value.name, kMean, kSigma));
    site.remove_suffix(is_mean ? kMean.size() : kSigma.size());
    Reference& reference = references_[std::string(site)];
    (is_mean ? reference.mean : reference.sigma) = value.value;
  }
}

double mean_mass(std::span<const SiteStatistics> sites, std::string_view mass) {
  double sum = 0;
  std::int64_t layers = 0;
  for (const SiteStatistics& site : sites) {
    if (site.kind != SiteKind::mass || !ends_in(site.site, mass) || site.all.samples == 0) continue;
    sum += site.all.average(&SampleSums::mean);
    ++layers;
  }
  return layers > 0 ? sum / static_cast<double>(layers) : math::kNaN<double>;
}

}  // namespace quietformer
