// stats.h5: statistics over time.
//
// An HDF5 file that h5py opens: /step (N) holds the logged steps, /activations/SITE/QUANTITY (N)
// and /weights/PARAMETER/QUANTITY (N) a value for each of them, per-head quantities (N, H); NaN
// where a value was not recorded. Attributes say what each dataset is. Quantities:
// analysis/quantities.h.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "analysis/activation_statistics.h"
#include "analysis/final_results.h"
#include "analysis/weight_statistics.h"

namespace quietformer {

class StatisticsHistory {
 public:
  /// Appends a logged step, larger than every one before.
  void add(std::int64_t step, std::span<const SiteStatistics> activations,
           std::span<const WeightStatistics> weights = {});

  const std::vector<std::int64_t>& steps() const { return steps_; }
  /// Of every series, in order of appearance.
  const std::vector<std::string>& paths() const { return order_; }
  /// The values at "activations/SITE/QUANTITY", row by row (`steps` x heads or 1); empty when
  /// there is no such series.
  std::vector<double> series(const std::string& path) const;

  /// Forgets every step above `last_step`, and series that then hold nothing: a run that resumes
  /// from a checkpoint goes on from there.
  void cut_back(std::int64_t last_step);

  /// Replaces the file atomically, with a group `final` if there is something to put there; load()
  /// passes over it. RunError when it cannot be written.
  void write(const std::string& path, const FinalResults* final = nullptr) const;
  /// InputError when the file is damaged or something else.
  static StatisticsHistory load(const std::string& path);

 private:
  struct Series {
    std::string meaning;
    bool by_head = false;
    std::int64_t width = 1;
    std::vector<double> values;  // steps x width
  };
  void append(const std::string& path, std::string_view meaning, bool by_head,
              std::span<const double> values);

  std::vector<std::int64_t> steps_;
  std::vector<std::string> order_;  // of appearance
  std::map<std::string, Series> series_;
};

}  // namespace quietformer
