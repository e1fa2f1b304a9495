// Statistics that are too slow for a training step: a run takes them once, at its end.
//
//   for each batch: statistics.begin_batch(validity), forward with ctx.probes = &statistics
//   statistics.results()
//
// Activations that analysis.sites selects, the blocks' outputs and attention's weights are read
// back from a GPU one by one, which waits each time. Best of a few sequences, one per batch.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "analysis/activation_sink.h"
#include "analysis/attention_profiler.h"
#include "analysis/config.h"
#include "analysis/final_results.h"
#include "analysis/host_copy.h"

namespace quietformer {

class FinalStatistics final : public ActivationSink {
 public:
  /// `config` is valid.
  explicit FinalStatistics(const AnalysisConfig& config) : config_(config) {}

  /// Positions that are not real count nowhere.
  void begin_batch(const Tensor& validity) override;
  bool wants(std::string_view name) const override;
  /// `value`: contiguous (B,T,C).
  void record(const Context& ctx, std::string_view name, const Tensor& value) override;
  void record_attention(const Context& ctx, std::string_view layer,
                        const AttentionProblem& problem) override;

  FinalResults results() const;

 private:
  struct Site {
    std::string name;
    bool selected = false, hidden = false;  // by analysis.sites; a block's output
    MagnitudeHistogram histogram;
    std::vector<double> token_sums, channel_sums;  // of maxima, over sequences
    std::vector<std::int64_t> token_sequences;
    std::int64_t sequences = 0, positions = 0;
    std::vector<std::int64_t> outliers;  // by channel: positions beyond the magnitude
  };
  struct Stretch {  // some positions of a sequence
    MagnitudeHistogram histogram;
    std::vector<double> channel_maxima;
    std::vector<std::int64_t> outliers;
  };

  Site& site_of(std::string_view name, const Shape& shape);
  template <class T>
  void add_sequence(const Context& ctx, Site& site, const T* values, const std::uint8_t* valid);
  OutlierDimensions outliers() const;

  AnalysisConfig config_;
  Tensor validity_;       // of the batch
  Tensor host_validity_;  // the same, once somebody asked
  HostCopy copy_, validity_copy_;
  std::vector<Site> sites_;  // in order of appearance
  std::map<std::string, std::size_t, std::less<>> index_;
  std::vector<double> token_maxima_;  // of a sequence
  std::vector<Stretch> stretches_;
  AttentionProfiler attention_;
};

}  // namespace quietformer
