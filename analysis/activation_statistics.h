// Statistics of activations while a model trains: a sink for the layers' probes.
//
//   statistics.begin_step();
//   for each micro-batch: statistics.begin_batch(validity), forward with ctx.probes = &statistics
//   statistics.end_step();                     then read latest()
//
// Per site (a probe's name that analysis.sites selects): the moments of every sample, averaged over
// samples, and the moments of all numbers together; micro-batches and ranks merge exactly. Between
// end_step() and begin_step() - in evaluation, in steps that are not logged - nothing is wanted and
// nothing recorded, and within a micro-batch a site counts once, however often a forward pass is
// repeated to recompute activations.
//
// attention.sink_mass and attention.row_sum (B,H,T) go along with the attention.context of their
// layer; of these only the mean is meaningful, over all and per head.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "analysis/activation_sink.h"
#include "analysis/config.h"
#include "analysis/moments.h"
#include "analysis/named_value.h"

namespace quietformer {

/// Sums over samples of each sample's statistics, and the moments of all samples' numbers together.
struct SampleSums {
  std::int64_t samples = 0;
  double kurtosis = 0, skewness = 0, variance = 0, mean = 0;
  double infinity_norm = 0;  // largest |x|
  Moments pooled;

  void add(const Moments& sample);  // a sample without numbers (all padding) does not count
  void merge(const SampleSums& other);
  /// One of the sums per sample; NaN for no samples.
  double average(double SampleSums::*sum) const;
};

enum class SiteKind : std::uint8_t { activation, mass };

/// One site over one step.
struct SiteStatistics {
  std::string site;
  SiteKind kind = SiteKind::activation;
  SampleSums all;                 // samples == 0: not recorded in that step
  std::vector<SampleSums> heads;  // empty where not asked for
  /// Whether pooled.outside is the count beyond 6 sigma of the previous logged step's mean; false
  /// before there is one.
  bool has_reference = false;
};

class GpuSites;
struct SiteCut;

class ActivationStatistics final : public ActivationSink {
 public:
  /// `config` is valid; `heads` cuts (B,T,C) of attention.context when config.per_head is on.
  ActivationStatistics(const AnalysisConfig& config, std::int64_t heads);
  ~ActivationStatistics() override;

  void begin_step();
  /// In sites (B,T,...), and (B,H,T) for masses, positions that are not real are left out; sites of
  /// another shape count whole.
  void begin_batch(const Tensor& validity = {}) override;
  /// After the last micro-batch: a GPU now adds up what it recorded and sends it, while the host
  /// asks for other work. May be left out.
  void end_batches();
  /// What the last micro-batch recorded was recorded again, by work that a GPU repeated without
  /// this object being asked (cuda::Graph). So it was recorded while recorded_layout() was what it
  /// is now.
  void repeat_batch();
  /// Work that records on a GPU may be repeated while this stays the same object; it keeps nothing
  /// alive. Null: there is none yet.
  std::shared_ptr<const int> recorded_layout() const;
  /// Publishes the step in latest(), and keeps each site's mean and sigma as the reference for the
  /// outliers of the next one.
  void end_step();

  bool wants(std::string_view name) const override;
  /// `value`: contiguous, f32 or f64, on a GPU also bf16 or f16, leading dimension the samples. On
  /// a GPU, where the validity then is too, this returns before the numbers were looked at, and
  /// they are added up there; end_step() waits for them. Allocates only when a site appears or a
  /// shape grows.
  void record(const Context& ctx, std::string_view name, const Tensor& value) override;

  /// Adds what another object (another rank) recorded in the same step; before end_step() of
  /// either. Waits for a GPU that either recorded on.
  void merge(ActivationStatistics& other);

  /// Every site so far in order of appearance, as of the last end_step().
  const std::vector<SiteStatistics>& latest() const { return latest_; }
  /// The patterns of analysis.sites that no probe has matched so far.
  std::vector<std::string> unmatched() const;

  /// What a resumed run needs to go on counting outliers: the references.
  std::vector<NamedValue> state() const;
  void restore(std::span<const NamedValue> state);

 private:
  struct Reference {
    double mean = 0;
    double sigma = -1;  // negative: none yet
  };

  std::size_t add_site(std::string_view name, SiteKind kind, std::size_t heads);
  void record_on_cpu(const Context& ctx, SiteStatistics& site, const Tensor& value,
                     const SiteCut& cut, const OutlierLimits& limits);
  void read_gpu();
  OutlierLimits limits_of(std::size_t site) const;

  AnalysisConfig config_;
  std::int64_t heads_;
  bool recording_ = false;
  std::int64_t batch_ = 0;  // counts begin_batch()
  Tensor validity_;
  std::map<std::string, std::size_t, std::less<>> index_;
  // By site:
  std::vector<SiteStatistics> current_, latest_;
  std::vector<Reference*> reference_;  // into references_, which a restore may fill beforehand
  std::vector<std::int64_t> last_batch_;
  std::map<std::string, Reference, std::less<>> references_;
  std::vector<Moments> partial_;
  std::vector<OutlierLimits> limits_;  // of a step
  std::unique_ptr<GpuSites> gpu_;      // once something was recorded on one
};

/// The average of a mass ("sink_mass", "row_sum") over all layers; NaN where none was recorded.
double mean_mass(std::span<const SiteStatistics> sites, std::string_view mass);

}  // namespace quietformer
